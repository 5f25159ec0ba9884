"""The tests and the programs that they start take little from the machine's environment."""

import ssl
import subprocess
import sys

from tests.environment import inherited

COUNT = "import ssl; print(ssl.create_default_context().cert_store_stats()['x509_ca'])"


def test_the_tests_and_their_programs_read_one_certificate() -> None:
    assert ssl.create_default_context().cert_store_stats()["x509_ca"] == 1
    counted = subprocess.run([sys.executable, "-c", COUNT], env=inherited(), capture_output=True, text=True, check=True)
    assert counted.stdout.strip() == "1"
