"""A model for cog that takes a few seconds to load. Until then cog responds with 503."""

import os
import time

from cog import BasePredictor, Input


class Predictor(BasePredictor):
    def setup(self) -> None:
        time.sleep(float(os.environ["LOAD_SECONDS"]))

    def predict(self, prompt: str = Input(description="Text to convert")) -> str:
        return prompt.upper()
