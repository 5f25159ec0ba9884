"""A model for LitServe that takes a few seconds to load. LitServe listens only afterwards."""

import os
import time

import litserve


class Upper(litserve.LitAPI):
    def setup(self, device: str) -> None:
        time.sleep(float(os.environ["LOAD_SECONDS"]))

    def decode_request(self, request: dict[str, str]) -> str:
        return request["prompt"]

    def predict(self, prompt: str) -> str:
        return prompt.upper()

    def encode_response(self, output: str) -> dict[str, str]:
        return {"output": output}


if __name__ == "__main__":
    server = litserve.LitServer(Upper(), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False)
