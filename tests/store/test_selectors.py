"""Label selectors: what is well-formed, and that the database chooses as plain reading would."""

import re
from math import isinf

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from controlplane.domain.errors import Invalid
from controlplane.domain.ids import TenantName, WorkspaceName
from controlplane.domain.resource import Kind
from controlplane.domain.selector import Op, Term, number, parse_selector
from tests.store.nouns import T0, fresh, key, resource_id


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", []),
        ("  ", []),
        ("tier=web", [("tier", "=", "web")]),
        ("tier==web", [("tier", "=", "web")]),
        (" tier = web , cpus >= 4 ", [("tier", "=", "web"), ("cpus", ">=", "4")]),
        ("env!=test", [("env", "!=", "test")]),
        ("a=", [("a", "=", "")]),
        ("ns:na*me=v*", [("ns:na*me", "=", "v*")]),
        ("a=b=c", [("a", "=", "b=c")]),
        ("n<-1.5e3,n>.5,n<=+2.", [("n", "<", "-1.5e3"), ("n", ">", ".5"), ("n", "<=", "+2.")]),
    ],
)
def test_a_selector_is_read_term_by_term(text, terms):
    assert [(t.key, t.op.value, t.value) for t in parse_selector(text)] == terms


@pytest.mark.parametrize(
    "text",
    ["web", "=web", "a=b,", ",a=b", "a=b,,c=d", "a=>5", "a<", "n>many", "n>1e999", "n>nan", "a!=t*",
     "a*!=t", "n*>1", "a=\0", "a<=>1", "a=!b"],
)  # fmt: skip
def test_a_malformed_selector_is_refused(text):
    with pytest.raises(Invalid):
        parse_selector(text)


# Few characters, so that patterns, values and keys meet; all that LIKE and GLOB could take amiss.
LETTERS = "aAb%_?[]\\^-1é\n "
VALUES = st.text(LETTERS, max_size=4) | st.sampled_from(
    ["4", "04", "4.0", "-1", "1e2", "5x", "1e999", ""]
)
KEYS = st.text("aAb%_?[1", min_size=1, max_size=2)
LABELS = st.dictionaries(KEYS, VALUES, max_size=4)
NUMBERS = st.sampled_from(["4", "-1", "100", "3.5", "1e2"])
TERMS = st.one_of(
    st.builds(Term, key=KEYS, op=st.sampled_from([Op.EQ, Op.NE]), value=VALUES),
    st.builds(Term, key=KEYS, op=st.sampled_from([Op.GT, Op.GE, Op.LT, Op.LE]), value=NUMBERS),
    st.builds(
        Term,
        key=st.text("aAb%_?[1*", min_size=1, max_size=3),
        op=st.just(Op.EQ),
        value=st.text(LETTERS + "***", max_size=4),
    ),
)  # fmt: skip


def holds(term, labels):
    """The plain reading of one term."""

    def matches(pattern, text):
        wild = ".*".join(re.escape(part) for part in pattern.split("*"))
        return re.fullmatch(wild, text, re.DOTALL) is not None

    def numeric(text):
        try:
            value = float(text) if re.fullmatch(r"[-+.0-9eE]+", text) else None
        except ValueError:
            return None
        return None if value is None or isinf(value) else value

    if term.op is Op.EQ:
        return any(matches(term.key, k) and matches(term.value, v) for k, v in labels.items())
    if term.op is Op.NE:
        return labels.get(term.key) != term.value
    value = numeric(labels.get(term.key, ""))
    bound = float(term.value)
    return value is not None and {
        Op.GT: value > bound, Op.LT: value < bound, Op.GE: value >= bound, Op.LE: value <= bound,
    }[term.op]  # fmt: skip


@pytest.fixture(scope="module")
def population(store):
    """Labels of many resources in one workspace; the selectors below run against all of them."""
    tenant = TenantName(fresh("t"))
    kept = {}

    def grow(labels):
        name = f"r{len(kept):05d}"
        with store.begin() as tx:
            tx.resources.put(
                key(name, tenant=tenant), id=resource_id(), labels=labels, spec={}, now=T0
            )
        kept[name] = labels

    return tenant, kept, grow


@settings(max_examples=100)
@given(labels=LABELS, terms=st.lists(TERMS, max_size=3))
@example(labels={"a": "A"}, terms=[Term(key="a", op=Op.EQ, value="a*")])
@example(labels={"a": "%"}, terms=[Term(key="a", op=Op.EQ, value="*%")])
@example(labels={"[": "]"}, terms=[Term(key="[", op=Op.EQ, value="*]")])
@example(labels={"a": "[?]"}, terms=[Term(key="*", op=Op.EQ, value="[?]*")])
def test_the_database_chooses_what_plain_reading_chooses(store, population, labels, terms):
    # Each example adds a resource durably and asks of all before: two seconds in all.
    tenant, kept, grow = population
    grow(labels)
    with store.read() as tx:
        page = tx.resources.list(
            Kind.INSTANCE,
            tenant=tenant,
            workspace=WorkspaceName("shop"),
            labels=tuple(terms),
            limit=10_000,
        )
    expected = [name for name, has in kept.items() if all(holds(term, has) for term in terms)]
    assert [resource.key.name for resource in page] == expected


@given(terms=st.lists(TERMS, max_size=3))
def test_what_a_selector_says_it_reads_again(terms):
    if any(t.value != t.value.strip() or t.key != t.key.strip() for t in terms):
        return
    assert parse_selector(",".join(map(str, terms))) == tuple(terms)


@given(text=st.text(max_size=8))
def test_a_number_is_what_decimal_digits_write(text):
    value = number(text)
    assert value is None or value == float(text)


def test_labels_that_were_replaced_choose_no_more(store):
    where = key(tenant=fresh("t"))
    for labels in ({"tier": "web", "old": "1"}, {"tier": "db"}):
        with store.begin() as tx:
            tx.resources.put(where, id=resource_id(), labels=labels, spec={}, now=T0)

    def chosen(text):
        with store.read() as tx:
            return len(
                tx.resources.list(Kind.INSTANCE, tenant=where.tenant, labels=parse_selector(text))
            )

    assert [chosen("tier=web"), chosen("old=1"), chosen("tier=db"), chosen("tier=d*")] == [
        0,
        0,
        1,
        1,
    ]
