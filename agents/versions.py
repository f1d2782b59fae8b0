"""Versions of a template: the next one, an earlier one again, and which variant of one a user has."""

from hashlib import blake2b

from schemas.template import KEPT_VERSIONS, Template, Version

MAX_TEMPLATE_BYTES = 3_500_000
"""A template with all the versions that it keeps; its topic takes a little more."""


class VersionGone(ValueError):
    """A version that is not kept any more, or never was."""


def published(known: Template | None, name: str, version: Version) -> Template | None:
    """The template with that version as its current one, or None where there is nothing to publish.

    There is nothing where the current version says the same, or the newest does: then an operator has
    rolled back, and a restart must not undo it. At most KEPT_VERSIONS are kept, the newest ones.
    """
    if known is None:
        return Template(name=name, current=1, versions={1: version})
    newest = max(known.versions)
    if version in (known.versions[known.current], known.versions[newest]):
        return None
    kept = {**known.versions, newest + 1: version}
    while True:
        kept = dict(sorted(kept.items())[-KEPT_VERSIONS:])
        following = Template(name=known.name, current=newest + 1, versions=kept)
        if len(kept) == 1 or len(following.to_json()) <= MAX_TEMPLATE_BYTES:
            return following
        del kept[min(kept)]


def rolled_back(template: Template, to: int) -> Template:
    """The template with an earlier (or later) version as its current one. Raises VersionGone."""
    if to not in template.versions:
        kept = ", ".join(map(str, sorted(template.versions)))
        raise VersionGone(f"version {to} of {template.name} is not there; kept are {kept}")
    return template.model_copy(update={"current": to})


def variant_of(name: str, version: Version, user_id: str) -> str | None:
    """The variant of a version that a user has, None where it has none.

    The same one every time, in every version: a user's place between 0 and 1 depends on the template's name
    and the user alone, so that new weights move only as many users as they must.
    """
    total = sum(variant.weight for variant in version.variants)
    digest = blake2b(f"{name}\0{user_id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    place = int.from_bytes(digest) * total >> 64
    for variant in version.variants:
        place -= variant.weight
        if place < 0:
            return variant.name
    return None
