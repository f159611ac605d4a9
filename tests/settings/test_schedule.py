import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_als.errors import InputError
from dask_als.settings.schedule import ScheduleSettings

MOST = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


def field(least, most):
    """Return a strategy for one field of a cron expression."""
    number = st.integers(least, most)
    span = st.tuples(number, number).map(lambda pair: "{}-{}".format(*sorted(pair)))
    plain = st.one_of(st.just("*"), number.map(str), span)
    step = st.tuples(plain, st.integers(1, 60)).map("{0[0]}/{0[1]}".format)
    return st.lists(st.one_of(plain, step), min_size=1, max_size=3).map(",".join)


@given(st.tuples(*(field(*ends) for ends in MOST)))
def test_cron_expressions(fields):
    assert ScheduleSettings(cron=" ".join(fields)).cron == " ".join(fields)


@pytest.mark.parametrize(
    "cron", ["@daily", "0 3 * JAN-mar sun", "*/10 * ? * mon-fri", "5/15 * * * *"]
)
def test_names_and_macros(cron):
    ScheduleSettings(cron=cron)


@given(st.integers(0, 4), st.sampled_from([-1, 1]), st.integers(1, 5000))
def test_a_number_out_of_its_range(place, direction, distance):
    least, most = MOST[place]
    wrong = most + distance if direction > 0 else least - distance
    fields = ["*"] * 5
    fields[place] = str(wrong)
    with pytest.raises(InputError, match=rf"it must be within {least} to {most}$"):
        ScheduleSettings(cron=" ".join(fields))


@pytest.mark.parametrize(
    "cron",
    [
        "",
        "0 3 * *",
        "0 3 * * * *",
        "0  3 * * *",
        "0 3 * * *\n",
        "@reboot",
        "every day",
        "a * * * *",
        "5-1 * * * *",
        "*/0 * * * *",
        "*/ * * * *",
        "1- * * * *",
        "1,,2 * * * *",
        ", * * * *",
        "* * * janu *",
        "* * * * 7",
        "٣ * * * *",
        "TZ=UTC 0 3 * * *",
    ],
)
def test_what_is_no_cron_expression(cron):
    with pytest.raises(InputError, match=r"^cron "):
        ScheduleSettings(cron=cron)


@pytest.mark.parametrize("name", ["epochs", "keep", "history"])
def test_numbers_below_one(name):
    with pytest.raises(InputError, match=f"{name} is 0"):
        ScheduleSettings(cron="@daily", **{name: 0})
