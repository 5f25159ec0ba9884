"""A model for BentoML that takes a few seconds to load. BentoML listens only afterwards."""

import os
import time

import bentoml


@bentoml.service(workers=1)
class Upper:
    def __init__(self) -> None:
        time.sleep(float(os.environ["LOAD_SECONDS"]))

    @bentoml.api
    def predict(self, prompt: str) -> str:
        return prompt.upper()
