"""The simulated oned on the wire: arrays, faults, codes, templates, pools."""

import http.client
import xmlrpc.client
from urllib.parse import urlsplit

import pyone
import pytest

from drivers.simulators.faults import Garbage, LostAnswer
from drivers.simulators.opennebula import FACTS, OpenNebulaSim
from drivers.simulators.opennebula.template import Malformed, parsed, rendered, single
from tests.simulators.opennebula.conftest import Api, session_of


def asked(sim: OpenNebulaSim, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    where = urlsplit(sim.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=10)
    connection.request(method, path, body, {"Content-Type": "text/xml"})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, data


def test_every_fact_has_one_id():
    assert len({fact.id for fact in FACTS}) == len(FACTS)


def test_success_is_an_array_of_three_and_failure_of_five(sim: OpenNebulaSim, raw):
    session = session_of(sim)
    assert raw.system.version(session) == [True, "7.4.0", 0]
    failure = raw.vm.info(session, 9999)
    assert failure == [False, "[one.vm.info] Error getting virtual machine [9999].", 1024, 9999, -1]


def test_a_wrong_token_is_256_and_pyone_names_it(sim: OpenNebulaSim, raw):
    answer = raw.system.version("fedctl:wrong")
    assert answer[2] == 256
    assert answer[1] == "[one.system.version] User couldn't be authenticated, aborting call."
    with pytest.raises(pyone.OneAuthenticationException):
        pyone.OneServer(sim.url, session="fedctl:wrong").system.version()


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda one, s: one.vm.frobnicate(s, 1), -506),
        (lambda one, s: one.vm.info(s, "one"), -501),
        (lambda one, s: one.vm.info(s), -501),
        (lambda one, s: one.vm.allocate(s, 'NAME="\U0001f600"'), -503),
        (lambda one, s: one.vm.allocate(s, 'NAME="\x01"'), -503),
    ],
)
def test_what_is_no_call_is_a_fault(sim: OpenNebulaSim, raw, call, code: int):
    with pytest.raises(xmlrpc.client.Fault) as caught:
        call(raw, session_of(sim))
    assert caught.value.faultCode == code


def test_bad_xml_is_a_fault_and_not_an_error_of_http(sim: OpenNebulaSim):
    status, body = asked(sim, "POST", "/RPC2", b"<methodCall><meth")
    assert status == 200
    assert b"-503" in body


def test_get_answers_405_and_a_wrong_path_404(sim: OpenNebulaSim):
    assert asked(sim, "GET", "/RPC2")[0] == 405
    assert asked(sim, "GET", "/nowhere")[0] == 404
    assert asked(sim, "POST", "/nowhere")[0] == 404


def test_a_token_is_made_used_and_taken_back(sim: OpenNebulaSim, api: Api):
    token = api.one.user.login("fedctl", "", 3600, -1)
    other = pyone.OneServer(sim.url, session=f"fedctl:{token}")
    assert other.user.info(-1).NAME == "fedctl"
    with pytest.raises(IndexError):  # what pyone makes of an empty text
        api.one.user.login("fedctl", token, 0, -1)
    with pytest.raises(pyone.OneAuthenticationException):
        other.user.info(-1)


def test_names_are_unique_for_images_with_their_own_code_and_free_for_vms(
    sim: OpenNebulaSim, api: Api, raw
):
    first = api.volume(name="same")
    answer = raw.image.allocate(session_of(sim), 'NAME="same"\nTYPE="DATABLOCK"\nSIZE="1"', 1)
    words = f"[one.image.allocate] Error allocating a new image. NAME is already taken by IMAGE {first}."
    assert answer == [False, words, 16384, first, -1]
    assert api.vm() != api.vm()


@pytest.mark.parametrize("name", ["n" * 129, "a/b", "a&b", 'a"b'])
def test_names_that_oned_does_not_take(api: Api, name: str):
    with pytest.raises(pyone.OneInternalException):
        api.one.vm.allocate({"TEMPLATE": {"NAME": name, "CPU": "1", "MEMORY": "64"}})


def test_quotas_are_refused_as_rights_and_say_so_in_words(sim: OpenNebulaSim, api: Api):
    sim.limit(VMS=1, SIZE=10)
    api.vm()
    with pytest.raises(pyone.OneAuthorizationException, match="limit of 1 reached for VMS quota"):
        api.vm()
    with pytest.raises(pyone.OneAuthorizationException, match="limit of 10 reached for SIZE quota"):
        api.volume(11)


def test_pools_descend_and_have_ranges_pages_and_filters(api: Api):
    numbers = [api.vm() for _ in range(5)]
    listed = [vm.ID for vm in api.one.vmpool.info(-2, -1, -1, -1).VM]
    assert listed == sorted(numbers, reverse=True)
    assert [vm.ID for vm in api.one.vmpool.info(-3, numbers[1], numbers[2], -1).VM] == [
        numbers[2],
        numbers[1],
    ]
    assert [vm.ID for vm in api.one.vmpool.info(-2, 1, -2, -1).VM] == listed[1:3]
    with pytest.raises(pyone.OneApiException, match="Incorrect filter_flag"):
        api.one.vmpool.info(-9, -1, -1, -1)


def test_the_short_listing_has_no_user_template(api: Api):
    api.vm(FEDCTL_OWNER="x")
    assert api.one.vmpool.info(-2, -1, -1, -1).VM[0].USER_TEMPLATE is None
    whole = api.one.vmpool.infoextended(-2, -1, -1, -1).VM[0]
    assert whole.USER_TEMPLATE == {"FEDCTL_OWNER": "x"}


def test_templates_unescape_quotes_only_and_raise_keys():
    read = parsed('a = "b\\"c\\d"\n9A=[x="1", y = 2]\n# no\nk=v')
    assert read == {"A": ['b"c\\d'], "ONE_9A": [{"X": "1", "Y": "2"}], "K": ["v"]}
    with pytest.raises(Malformed):
        parsed('A="b\\"')
    assert parsed(rendered("TEMPLATE", read)) == read
    assert single(parsed("<T><A>1</A><A>2</A></T>"), "A") == "2"


def test_a_lost_answer_had_its_effect(sim: OpenNebulaSim, api: Api):
    sim.faults.fail(LostAnswer(), path="one.vm.allocate")
    with pytest.raises(OSError):  # requests.ConnectionError is one
        api.vm()
    assert len(api.one.vmpool.info(-2, -1, -1, -1).VM) == 1


def test_garbage_is_no_answer_and_has_no_effect(sim: OpenNebulaSim, api: Api):
    sim.faults.fail(Garbage(), path="one.vm.allocate")
    with pytest.raises(Exception, match=r"syntax|mismatched|invalid|not well-formed"):
        api.vm()
    assert api.one.vmpool.info(-2, -1, -1, -1).VM == []
