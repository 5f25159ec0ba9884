"""A model for MLServer that takes a few seconds to load. Until then MLServer responds with 400."""

import asyncio
import os

from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Upper(MLModel):
    async def load(self) -> bool:
        await asyncio.sleep(float(os.environ["LOAD_SECONDS"]))
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        texts = StringCodec.decode_input(payload.inputs[0])
        output = StringCodec.encode_output("output", [text.upper() for text in texts])
        return InferenceResponse(model_name=self.name, outputs=[output])
