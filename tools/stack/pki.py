"""A throw-away certificate authority for one stack.

Keys are elliptic, because an RSA key takes a tenth of a second to create. Everything expires within a week, so that a
leftover kubeconfig is worth nothing. Not for any other use.
"""

from __future__ import annotations

import base64
import datetime as dt
import ipaddress
import json
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KUBERNETES_SERVICE = "10.0.0.1"
"""Address of the API server's Service: the first one of its range (`control_plane.py`). Pods on a real node use it."""
_LIFETIME = dt.timedelta(days=7)
_SKEW = dt.timedelta(minutes=5)


@dataclass(frozen=True)
class KeyPair:
    certificate: Path
    key: Path


class Authority:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("kube-cache development CA")
        builder = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign_certificates=True), critical=True)
        )
        self._certificate = builder.sign(self._key, hashes.SHA256())
        self.certificate = folder / "ca.crt"
        self.certificate.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, name: str) -> KeyPair:
        """Issue a certificate for a server on loopback, and under the name that Pods would use."""
        hosts = ("localhost", "kubernetes", "kubernetes.default.svc")
        names: list[x509.GeneralName] = [x509.DNSName(host) for host in hosts]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", KUBERNETES_SERVICE)]
        return self._issue(name, _name(name), [ExtendedKeyUsageOID.SERVER_AUTH], x509.SubjectAlternativeName(names))

    def client(self, user: str, group: str = "") -> KeyPair:
        """Issue a client certificate. Kubernetes takes the common name for the user, the organisation for the group."""
        return self._issue(user.replace(":", "-"), _name(user, group), [ExtendedKeyUsageOID.CLIENT_AUTH])

    def node(self, name: str) -> KeyPair:
        """Issue the certificate that a node's agent shows to other agents, as server and as client."""
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return self._issue(f"node-{name}", _name(name), purposes, x509.SubjectAlternativeName([x509.DNSName(name)]))

    def token_key(self, name: str) -> KeyPair:
        """Create the Ed25519 key that the operator signs nodes' tokens with; `certificate` holds the public key."""
        key = ed25519.Ed25519PrivateKey.generate()
        pair = KeyPair(self._folder / f"{name}.pub", self._folder / f"{name}.key")
        pair.certificate.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        _write_key(pair.key, key)
        return pair

    def signing_key(self, name: str) -> KeyPair:
        """Create a bare key pair for service account tokens; `certificate` holds the public key."""
        key = ec.generate_private_key(ec.SECP256R1())
        pair = KeyPair(self._folder / f"{name}.pub", self._folder / f"{name}.key")
        pair.certificate.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        _write_key(pair.key, key)
        return pair

    def kubeconfig(self, path: Path, server: str, user: str, group: str = "", namespace: str = "default") -> Path:
        """Write a kubeconfig that holds its certificates, so that the file can be copied. JSON is YAML."""
        pair = self.client(user, group)
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "kube-cache",
                    "cluster": {"server": server, "certificate-authority-data": _inline(self.certificate)},
                }
            ],
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate-data": _inline(pair.certificate),
                        "client-key-data": _inline(pair.key),
                    },
                }
            ],
            "contexts": [
                {"name": "kube-cache", "context": {"cluster": "kube-cache", "user": user, "namespace": namespace}}
            ],
            "current-context": "kube-cache",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=2))
        return path

    def _issue(
        self,
        file: str,
        subject: x509.Name,
        purposes: list[x509.ObjectIdentifier],
        names: x509.SubjectAlternativeName | None = None,
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = (
            self._builder(subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            # Python's strict verification looks for the issuer by its key, not only by name.
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        pair = KeyPair(self._folder / f"{file}.crt", self._folder / f"{file}.key")
        pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        _write_key(pair.key, key)
        return pair

    def _builder(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _SKEW)
            .not_valid_after(now + _LIFETIME)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        )


def _name(common: str, organisation: str = "") -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common)]
    if organisation:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation))
    return x509.Name(attributes)


def _usage(*, sign_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> None:
    path.touch(mode=0o600)
    has_own_format = isinstance(key, ec.EllipticCurvePrivateKey)
    form = serialization.PrivateFormat.TraditionalOpenSSL if has_own_format else serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


def _inline(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
