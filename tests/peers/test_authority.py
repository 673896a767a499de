"""A certificate says which node it is, for a day, and nothing that was asked for beside that."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kube_cache import names
from kube_cache.errors import InvalidRequest
from kube_cache.peers import authority as authority_module
from kube_cache.peers.authority import LIFE_S, Authority, require_native
from kube_cache.peers.tokens import Mint, Verifier
from tests.peers.conftest import NODE, SNAPSHOT
from tests.peers.issuing import Issuing

DAY = dt.timedelta(seconds=LIFE_S)
PEM = serialization.Encoding.PEM


@pytest.fixture
def issuing(tmp_path: Path) -> Issuing:
    return Issuing(tmp_path)


def greedy_request(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    """Ask to be another node, any node and an authority."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "another-node")])
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("another-node"), x509.DNSName("*")]), critical=False)
    )
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, digest).public_bytes(PEM)


def test_a_certificate_names_the_node_and_nothing_that_was_asked_for(issuing: Issuing) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    before = dt.datetime.now(dt.UTC)
    issued = issuing.authority().issue(greedy_request(key), NODE)
    certificate = x509.load_pem_x509_certificate(issued.certificate)
    authority = x509.load_pem_x509_certificate(issuing.certificate.read_bytes())

    names_of = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names_of) == [x509.DNSName(NODE)]
    assert list(certificate.subject) == []
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert certificate.public_key() == key.public_key()
    certificate.verify_directly_issued_by(authority)

    assert issued.life_s == LIFE_S
    skew = dt.timedelta(seconds=300)
    assert certificate.not_valid_before_utc <= before - skew + dt.timedelta(seconds=1)
    assert before - skew <= certificate.not_valid_before_utc + dt.timedelta(seconds=1)
    assert before + DAY <= certificate.not_valid_after_utc + dt.timedelta(seconds=1)
    assert certificate.not_valid_after_utc <= dt.datetime.now(dt.UTC) + DAY


def test_a_certificate_is_good_for_both_ends_of_a_connection_and_signs_no_other(issuing: Issuing) -> None:
    issued = issuing.authority().issue(require_native().request()[1], NODE)
    certificate = x509.load_pem_x509_certificate(issued.certificate)
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(purposes) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    assert not usage.key_cert_sign
    assert certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    serials = {
        x509.load_pem_x509_certificate(
            issuing.authority().issue(require_native().request()[1], NODE).certificate
        ).serial_number
        for _ in range(3)
    }
    assert len(serials) == 3


def test_one_key_signs_certificates_and_tokens(issuing: Issuing) -> None:
    token = Mint(issuing.key.read_bytes()).token(SNAPSHOT, NODE, 0.0)
    assert Verifier(issuing.certificate).read(token).node == NODE


@pytest.mark.parametrize(
    "node", ["", "*", "*.example", "a,DNS:b", "a\nb", "UPPER", "-a", "a" * 254, "ünicode", names.ISSUER]
)
def test_what_is_no_node_or_the_issuer_itself_gets_no_certificate(issuing: Issuing, node: str) -> None:
    with pytest.raises(InvalidRequest, match="no name of a node"):
        issuing.authority().issue(require_native().request()[1], node)


def test_a_name_of_any_length_fits(issuing: Issuing) -> None:
    long = ".".join(["a" * 63] * 3) + "." + "b" * 61
    issued = issuing.authority().issue(require_native().request()[1], long)
    certificate = x509.load_pem_x509_certificate(issued.certificate)
    assert list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == [
        x509.DNSName(long)
    ]


@pytest.mark.parametrize("request_", [b"", b"x" * 9000, b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n"])
def test_what_is_no_request_is_refused(issuing: Issuing, request_: bytes) -> None:
    with pytest.raises(InvalidRequest, match="no request of an Ed25519 key"):
        issuing.authority().issue(request_, NODE)


def test_a_request_that_another_key_signed_is_refused(issuing: Issuing) -> None:
    made = x509.load_pem_x509_csr(greedy_request(ed25519.Ed25519PrivateKey.generate()))
    der = bytearray(made.public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1  # of the signature
    broken = x509.load_der_x509_csr(bytes(der)).public_bytes(PEM)
    with pytest.raises(InvalidRequest, match="signed with that key"):
        issuing.authority().issue(broken, NODE)


def test_a_request_of_another_kind_of_key_is_refused(issuing: Issuing) -> None:
    with pytest.raises(InvalidRequest, match="Ed25519"):
        issuing.authority().issue(greedy_request(ec.generate_private_key(ec.SECP256R1())), NODE)


def authority_files(
    folder: Path,
    key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
    *,
    ends_in: dt.timedelta = dt.timedelta(days=9),
    ca: bool = True,
    key_in_file: ed25519.Ed25519PrivateKey | None = None,
) -> Authority:
    """Make an authority without a key identifier, as some tools do. Raises InvalidRequest where it is none."""
    now, name = dt.datetime.now(dt.UTC), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "other")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=20))
        .not_valid_after(now + ends_in)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    certificate, file = folder / "other.crt", folder / "other.key"
    certificate.write_bytes(builder.sign(key, digest).public_bytes(PEM))
    form = serialization.PrivateFormat.PKCS8
    file.write_bytes((key_in_file or key).private_bytes(PEM, form, serialization.NoEncryption()))
    return Authority(certificate, file)


def test_a_certificate_does_not_outlive_its_authority(tmp_path: Path) -> None:
    ends_in = dt.timedelta(hours=2)
    authority = authority_files(tmp_path, ed25519.Ed25519PrivateKey.generate(), ends_in=ends_in)
    issued = authority.issue(require_native().request()[1], NODE)
    assert 0 < issued.life_s <= ends_in.total_seconds()
    certificate = x509.load_pem_x509_certificate(issued.certificate)
    assert certificate.not_valid_after_utc <= dt.datetime.now(dt.UTC) + ends_in


def test_an_authority_that_cannot_issue_is_refused_at_the_start_with_words(tmp_path: Path) -> None:
    key, other = ed25519.Ed25519PrivateKey.generate(), ed25519.Ed25519PrivateKey.generate()
    with pytest.raises(InvalidRequest, match="has expired"):
        authority_files(tmp_path, key, ends_in=dt.timedelta(days=-1))
    with pytest.raises(InvalidRequest, match="none of an authority"):
        authority_files(tmp_path, key, ca=False)
    with pytest.raises(InvalidRequest, match="does not belong"):
        authority_files(tmp_path, key, key_in_file=other)
    with pytest.raises(InvalidRequest, match="no private Ed25519 key"):
        authority_files(tmp_path, ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(InvalidRequest, match="ISSUER_ADDRESS"):
        Authority(tmp_path / "missing", tmp_path / "missing")


def test_an_installation_without_openssl_says_so(issuing: Issuing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority_module, "_native", None)
    with pytest.raises(InvalidRequest, match="libssl-dev"):
        issuing.authority()


def test_the_server_s_certificate_is_made_anew_in_time_and_with_its_authority(issuing: Issuing) -> None:
    now = 0.0
    authority = Authority(issuing.certificate, issuing.key, clock=lambda: now)
    first = authority.server_context()
    now = LIFE_S / 2
    assert authority.server_context() is first
    now = LIFE_S * 0.7
    assert authority.server_context() is not first


def test_an_authority_that_an_operator_makes_signs_for_nodes_and_for_nothing_else(tmp_path: Path) -> None:
    key, certificate = authority_module.make()
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "certificate").write_bytes(certificate)
    issued = Authority(tmp_path / "certificate", tmp_path / "key").issue(require_native().request()[1], NODE)
    parent = x509.load_pem_x509_certificate(certificate)
    x509.load_pem_x509_certificate(issued.certificate).verify_directly_issued_by(parent)
    assert parent.extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(True, 0)
    assert parent.not_valid_after_utc - parent.not_valid_before_utc > dt.timedelta(days=3650)
    assert Verifier(tmp_path / "certificate").read(Mint(key).token(SNAPSHOT, NODE, 0.0)).node == NODE
    assert authority_module.make()[0] != key
