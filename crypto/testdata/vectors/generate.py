#!/usr/bin/env python3
"""Writes the vectors beside it: a second implementation of this package, from
docs/format.md, on pyca/cryptography. The vectors that must be refused are made
from good ones by one change each. Run it in its own directory."""
import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.cmac import CMAC
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def derive(key, purpose, *context):
    info = b"cmkfs/v1"
    for part in (purpose, *context):
        info += struct.pack(">I", len(part)) + part
    return HKDF(SHA256(), 32, None, info).derive(key)


def cmac(key, msg):
    c = CMAC(algorithms.AES(key))
    c.update(msg)
    return c.finalize()


def box(key, nonce, plaintext, ad):
    sub = b"".join(cmac(key, bytes([0, i, ord("X"), 0]) + nonce[:12]) for i in (1, 2))
    return nonce + AESGCM(sub).encrypt(nonce[12:], plaintext, ad)


def sequence(key, n, plaintext, ad):
    return AESGCM(key).encrypt(struct.pack(">IQ", 0, n), plaintext, ad)


def name_hash(key, parent, name):
    low = 16
    return low + struct.unpack(">Q", cmac(key, struct.pack(">Q", parent) + name)[:8])[0] % (2**62 - low)


def element(key, table, k, value):
    return hmac.new(key, struct.pack(">BQ", table, len(k)) + k + value, hashlib.sha256).digest()


def page_tag(key, number, page):
    return hmac.new(key, struct.pack(">Q", number) + page, hashlib.sha256).digest()[:16]


def rnd(seed, n):
    return hashlib.shake_128(seed.encode()).digest(n)


def flip(b, i):
    return b[:i] + bytes([b[i] ^ 1]) + b[i + 1:]


def write(file, op, expect="success", **fields):
    with open(file + ".txt", "w") as f:
        f.write(f"op: {op}\nexpect: {expect}\n")
        for k, v in fields.items():
            f.write(f"{k}: {v.hex() if isinstance(v, bytes) else v}\n")


KEY, OTHER = rnd("key", 32), rnd("other key", 32)
AD = b"associated data"

for name, size in (("empty", 0), ("byte", 1), ("block", 16), ("long", 1000)):
    plain, nonce = rnd(name, size), rnd("nonce " + name, 24)
    write("box-" + name, "box", key=KEY, ad=AD, plaintext=plain, sealed=box(KEY, nonce, plain, AD))
    write("sequence-" + name, "sequence", key=KEY, n=size * 2**40 + 7, ad=AD, plaintext=plain,
          sealed=sequence(KEY, size * 2**40 + 7, plain, AD))

plain = b"plaintext"
good = box(KEY, rnd("nonce", 24), plain, AD)
for name, key, ad, sealed in (
    ("other-key", OTHER, AD, good), ("other-ad", KEY, b"other", good), ("no-ad", KEY, b"", good),
    ("nonce-first-half", KEY, AD, flip(good, 0)), ("nonce-second-half", KEY, AD, flip(good, 23)),
    ("ciphertext", KEY, AD, flip(good, 24)), ("tag", KEY, AD, flip(good, len(good) - 1)),
    ("truncated", KEY, AD, good[:-1]), ("extended", KEY, AD, good + b"\0"),
    ("too-short", KEY, AD, good[:39]), ("nothing", KEY, AD, b""),
):
    write("box-bad-" + name, "box", "auth-failure", key=key, ad=ad, sealed=sealed)

good = sequence(KEY, 2**63, plain, AD)
for name, key, n, ad, sealed in (
    ("other-key", OTHER, 2**63, AD, good), ("other-ad", KEY, 2**63, b"other", good),
    ("next-number", KEY, 2**63 + 1, AD, good), ("number-without-high-bit", KEY, 0, AD, good),
    ("ciphertext", KEY, 2**63, AD, flip(good, 0)), ("tag", KEY, 2**63, AD, flip(good, len(good) - 1)),
    ("truncated", KEY, 2**63, AD, good[:-1]), ("too-short", KEY, 2**63, AD, good[:15]),
):
    write("sequence-bad-" + name, "sequence", "auth-failure", key=key, n=n, ad=ad, sealed=sealed)

write("derive-no-context", "derive", key=KEY, purpose=b"segment", result=derive(KEY, b"segment"))
write("derive-one-context", "derive", key=KEY, purpose=b"segment", context=rnd("salt", 32),
      result=derive(KEY, b"segment", rnd("salt", 32)))
write("commit", "commit", key=KEY, context=b"volume", result=derive(KEY, b"key commitment", b"volume"))
write("commit-bad-key", "commit", "auth-failure", key=OTHER, context=b"volume",
      result=derive(KEY, b"key commitment", b"volume"))
write("commit-bad-context", "commit", "auth-failure", key=KEY, context=b"volumes",
      result=derive(KEY, b"key commitment", b"volume"))

vek = rnd("vek", 32)
good = box(derive(KEY, b"key wrap"), rnd("wrap nonce", 24), vek, AD)
write("wrap", "wrap", key=KEY, ad=AD, plaintext=vek, sealed=good)
write("wrap-bad-other-ad", "wrap", "auth-failure", key=KEY, ad=b"", sealed=good)
write("wrap-bad-tag", "wrap", "auth-failure", key=KEY, ad=AD, sealed=flip(good, 71))
write("wrap-bad-not-derived", "wrap", "auth-failure", key=KEY, ad=AD, sealed=box(KEY, rnd("wrap nonce", 24), vek, AD))
short = box(derive(KEY, b"key wrap"), rnd("wrap nonce", 24), vek[:31], AD)
write("wrap-bad-short-key", "wrap", "auth-failure", key=KEY, ad=AD, sealed=short)

for size in (1, 7, 8, 9, 24, 255):
    name = rnd("name", size)
    write(f"name-{size}", "name", key=KEY, parent=size * 2**32 + 1, name=name,
          result=name_hash(KEY, size * 2**32 + 1, name))
for size in (0, 300):
    write(f"element-{size}", "element", key=KEY, table=3, record=b"record key", value=rnd("value", size),
          result=element(KEY, 3, b"record key", rnd("value", size)))
for number in (0, 70000):
    write(f"pagetag-{number}", "pagetag", key=KEY, number=number, page=rnd("page", 4096),
          result=page_tag(KEY, number, rnd("page", 4096)))
