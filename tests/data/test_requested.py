"""What a configuration asks of dates and sides: an error where nothing has it, a finding where a group lacks it."""

import pyarrow as pa
import pytest

from reid_core.config.presets import tiny
from reid_core.config.values import override
from reid_core.data.requested import check_requests, notice_requests
from reid_core.errors import UserError

SIDES = [{"match.same_side": True}, {"model.orientation": "embedding"}, {"model.orientation": "input"}]
DATES = [{"data.split": "time_proportion"}, {"data.split": "time_cutoff"}, {"data.whole_encounters": True}]
OLD, YOUNG = ["2020-01-01", "2020-03-01", "2020-05-01", "2021-01-01"], [None] * 4


def herd(sides: dict[str, str | None] | None = None, dates: dict[str, list[str | None]] | None = None) -> pa.Table:
    """Two groups of five animals with four photographs each."""
    rows = [
        (group, f"{group} {animal}", number) for group in ("cow", "pig") for animal in range(5) for number in range(4)
    ]
    return pa.table(
        {
            "identity": [name for _, name, _ in rows],
            "group": [group for group, _, _ in rows],
            "orientation": pa.array([(sides or {}).get(group) for group, _, _ in rows], pa.string()),
            "date": pa.array([(dates or {}).get(group, YOUNG)[number] for group, _, number in rows], pa.string()),
        }
    )


@pytest.mark.parametrize("asked", SIDES)
def test_sides_that_nothing_has_are_an_error_with_values_and_remedy(asked):
    config = override(tiny(), asked)
    key, value = next((key, str(value).lower()) for key, value in asked.items())
    with pytest.raises(UserError) as caught:
        check_requests(herd({"cow": "M", "pig": "rigth"}), config)
    assert str(caught.value).startswith(
        f"{key}={value}: no labelled row says which side is seen (orientation is 'M' 20"
    )
    assert f"or set {key}=" in str(caught.value)
    check_requests(herd({"cow": "L"}), config)
    check_requests(herd(), tiny())


@pytest.mark.parametrize("asked", SIDES)
def test_groups_without_sides_are_named(asked):
    assert notice_requests(herd({"cow": "L"}), tiny()) == []
    (finding,) = notice_requests(herd({"cow": "L", "pig": "M"}), override(tiny(), asked))
    assert str(finding).startswith("metadata.csv: 1 group(s) where no photograph names a side, so ")
    assert finding.examples == ("'pig'",)


@pytest.mark.parametrize("asked", DATES)
def test_dates_that_nothing_has_are_an_error_with_the_remedy(asked):
    config = override(tiny(), asked)
    with pytest.raises(
        UserError, match=r"needs dates, and no labelled row has one .*\(YYYY-MM-DD\), or set data\.split"
    ):
        check_requests(herd(), config)
    check_requests(herd(dates={"cow": OLD}), config)


@pytest.mark.parametrize("asked", DATES)
def test_groups_without_dates_are_named(asked):
    (finding,) = notice_requests(herd(dates={"cow": OLD}), override(tiny(), asked))
    assert "pig" in finding.examples[0]
    assert finding.count == 1
    assert notice_requests(herd(dates={"cow": OLD, "pig": OLD}), override(tiny(), asked)) == []


@pytest.mark.parametrize("split", ["stratified", "paper", "time_proportion"])
def test_a_cutoff_that_the_split_does_not_use_is_an_error(split):
    config = override(tiny(), {"data.split": split, "data.cutoff_date": "2020-04-01"})
    with pytest.raises(UserError, match=rf"data\.cutoff_date=2020-04-01 is not used by data\.split={split}"):
        check_requests(herd(dates={"cow": OLD}), config)
    check_requests(herd(dates={"cow": OLD}), override(config, {"data.split": "time_cutoff"}))
