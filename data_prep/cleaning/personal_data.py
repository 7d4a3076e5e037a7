"""Personal data replaced by markers: e-mail addresses, telephone numbers, public IP addresses.

In:  `Document`.
Out: the document with <EMAIL>, <PHONE> and <IP> in their place. Nothing is dropped; doing it twice changes nothing.

What looks like one is found by a pattern, and is one if the library for it says so: `phonenumbers` (Google's
libphonenumber: valid numbers of the country) and `ipaddress` (global addresses; private ones name nobody). An e-mail
address needs no more than its form (RFC 5321, 5322: without quotes and comments).
"""

from __future__ import annotations

import ipaddress
import re

from data_prep.cleaning.document import Document
from data_prep.cleaning.section import PersonalDataSection
from mlc.errors import RecipeError

EMAIL, PHONE, IP = "<EMAIL>", "<PHONE>", "<IP>"

_EMAIL = re.compile(
    r"(?<![\w.%+-])[\w%+-]{1,64}(?:\.[\w%+-]{1,64}){0,8}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])"
)
# Cheap to search for, and in every address: the full patterns run over a text only where these are found.
_MAYBE_IPV4 = re.compile(r"\.[0-9]{1,3}\.[0-9]")
_MAYBE_IPV6 = re.compile(r":[0-9A-Fa-f]{0,4}:")
_MAYBE_PHONE = re.compile(r"\+[\d(]")
_IPV4 = re.compile(r"(?<![\w.:-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w-]|\.\w)")
_IPV6 = re.compile(r"(?<![\w.:])[0-9A-Fa-f]{1,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:]|\.\w)")
_PHONE_INTERNATIONAL = re.compile(r"(?<![\w+])\+\(?\d[\d ().\u00a0/-]{5,24}\d(?!\w)")
_PHONE_ANY = re.compile(r"(?<![\w+.,:/-])(?:\+|\()?\d[\d ().\u00a0/-]{5,24}\d(?!\w)")
_VERSION_BEFORE = re.compile(r"(?:version|release|ver\.?|v\.?|section|chapter|§)\s*$", re.IGNORECASE)


class PersonalDataRemover:
    """Replaces personal data in each side of a document."""

    def __init__(self, section: PersonalDataSection) -> None:
        """See `PersonalDataSection`.

        Raises:
            RecipeError: no country has the code `phone_region`.
        """
        import phonenumbers

        self._section, self._phones = section, phonenumbers
        if section.phone_region and section.phone_region not in phonenumbers.SUPPORTED_REGIONS:
            raise RecipeError(
                "no country has this code",
                found=section.phone_region,
                needed='two capital letters, such as "DE"',
                where="cleaning.personal_data.phone_region",
            )

    def __call__(self, document: Document) -> Document:
        """The document without personal data."""
        texts = document.texts
        while (cleaned := tuple(self._clean(text) for text in texts)) != texts:  # a marker may set another one free
            texts = cleaned
        return document if texts is document.texts else Document(texts, document.languages)

    def _clean(self, text: str) -> str:
        if self._section.emails and "@" in text:
            text = _EMAIL.sub(EMAIL, text)
        if self._section.ips:
            if _MAYBE_IPV4.search(text):
                text = _IPV4.sub(_ip_marker, text)
            if _MAYBE_IPV6.search(text):
                text = _IPV6.sub(_ip_marker, text)
        if self._section.phones:
            if self._section.phone_region:
                text = _PHONE_ANY.sub(self._phone_marker, text)
            elif _MAYBE_PHONE.search(text):
                text = _PHONE_INTERNATIONAL.sub(self._phone_marker, text)
        return text

    def _phone_marker(self, found: re.Match[str]) -> str:
        """The candidate with every valid number in it replaced, or as it is."""
        candidate, region = found[0], self._section.phone_region or None
        pieces, end = [], 0
        for match in self._phones.PhoneNumberMatcher(candidate, region):
            pieces += [candidate[end : match.start], PHONE]
            end = match.end
        return "".join(pieces) + candidate[end:]


def _ip_marker(found: re.Match[str]) -> str:
    try:
        address = ipaddress.ip_address(found[0])
    except ValueError:
        return found[0]
    if address.version == 4 and max(address.packed) < 10:  # a section or a version; 8.8.8.8 names nobody either
        return found[0]
    if address.version == 4 and _VERSION_BEFORE.search(found.string, max(0, found.start() - 12), found.start()):
        return found[0]
    # Of IPv6, 2000::/3 alone is given out (RFC 4291, section 2.4); the rest is C++ names and times.
    public = address.is_global and (address.version == 4 or address.packed[0] >> 5 == 1)
    return IP if public else found[0]
