"""What every vendor's speaker says of itself holds."""

import pytest

from pipeline.simulator.faults import BANNERS, parse
from pipeline.simulator.registry import KINDS
from pipeline.simulator.simulator import Simulator, faults_of
from pipeline.simulator.transport import HOST
from pipeline.simulator.vendor import ANSWERS, Vendor
from schemas.kinds import Channel


def vendor_of(kind: str) -> Vendor:
    return KINDS[kind].make({}, lambda: 1_760_000_000.0)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_registered_under_its_own_kind(kind: str) -> None:
    assert vendor_of(kind).kind == kind


@pytest.mark.parametrize("kind", KINDS)
def test_its_rules_do_what_it_can_do(kind: str) -> None:
    vendor = vendor_of(kind)
    for rule in vendor.rules:
        assert rule.to.strip("*"), "a rule for every address would leave none for success"
        assert rule.says
        if rule.does and rule.does not in vendor.codes:
            assert ":" not in rule.does, "conditions are for faults that are set"
            assert parse(rule.does, faults_of(kind)).name not in {"down", *BANNERS}


@pytest.mark.parametrize("kind", KINDS)
def test_its_codes_hide_no_fault_of_all(kind: str) -> None:
    vendor = vendor_of(kind)
    assert len(set(vendor.codes)) == len(vendor.codes)
    assert not set(vendor.codes) & {*ANSWERS, "latency", "down", "flap", "hang"}
    for code in vendor.codes:
        assert parse(f"{code}:0.5", faults_of(kind)).name == code


@pytest.mark.parametrize("kind", KINDS)
def test_its_message_ids_are_all_different(kind: str) -> None:
    vendor = vendor_of(kind)
    assert len({vendor.id(number) for number in range(1, 2000)}) == 1999


@pytest.mark.parametrize("kind", KINDS)
async def test_it_listens_on_loopback_alone(kind: str) -> None:
    async with Simulator(kind) as provider:
        scheme, _, rest = provider.base_url.partition("://")
        assert scheme in {"http", "https", "smtp"}
        assert rest == f"{HOST}:{provider.port}"
    assert HOST == "127.0.0.1"


def test_mail_and_webhooks_can_be_simulated() -> None:
    assert set(KINDS) >= {"smtp", Channel.WEBHOOK}
