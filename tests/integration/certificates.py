"""Certificates for receivers that speak TLS."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, in one PEM file."""

    path: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.path)
        return context


def self_signed(directory: Path, host: str) -> Certificate:
    """A certificate for one host name or address, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("test receiver")
    builder = _builder(name, name, key, is_authority=True)
    alternative = x509.SubjectAlternativeName([_general_name(host)])
    signed = builder.add_extension(alternative, critical=False).sign(key, hashes.SHA256())
    return _written(directory / "certificate.pem", signed, key)


class Authority:
    """A private certificate authority. `bundle` is the PEM file with its certificate."""

    def __init__(self, directory: Path, name: str = "test authority") -> None:
        self._directory = directory
        self._name = _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        own = _builder(self._name, self._name, self._key, is_authority=True).sign(self._key, hashes.SHA256())
        self.bundle = directory / f"{name.replace(' ', '_')}.pem"
        self.bundle.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def issue(self, *hosts: str) -> Certificate:
        """Return a certificate for these host names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_name("test receiver"), self._name, key, is_authority=False)
        alternative = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        signed = builder.add_extension(alternative, critical=False).sign(self._key, hashes.SHA256())
        return _written(self._directory / f"{signed.serial_number}.pem", signed, key)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_authority: bool
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )


def _written(path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Certificate:
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return Certificate(path)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
