"""Editing TOML text: the values change, everything else is as it was written."""

import tomllib

from foedus.rewriting import with_values, without_section

TEXT = """\
# a study
[study]
name = "toy"   # its name
[federation] # rounds
rounds = 3
  lr = 0.1  # tried "#" by hand
[tuning]
targets = [
  "query",  # attention
  "value",
]
rank = 8

[search]
trials = 3
[search.space]
"federation.lr" = [0.1, 0.2]

# what leaves
[door]
mode = "open"
"""


def test_a_value_changes_in_place_and_its_comment_stays() -> None:
    assert with_values(TEXT, {"federation.lr": 0.02}) == TEXT.replace("lr = 0.1  #", "lr = 0.02  #")


def test_a_key_that_is_not_there_comes_below_its_header_and_a_section_at_the_end() -> None:
    found = with_values(TEXT, {"federation.strategy": "fedadam", "backbone.personal": "none"})
    assert '[federation] # rounds\nstrategy = "fedadam"\nrounds = 3\n' in found
    assert found.endswith('mode = "open"\n\n[backbone]\npersonal = "none"\n')


def test_a_list_over_many_lines_is_replaced_as_a_whole() -> None:
    found = with_values(TEXT, {"tuning.targets": ["key"], "tuning.rank": 4})
    assert '[tuning]\ntargets = ["key"]\nrank = 4\n\n[search]' in found
    assert tomllib.loads(found)["tuning"] == {"targets": ["key"], "rank": 4}


def test_a_section_goes_with_its_sub_sections_and_the_next_comment_stays() -> None:
    found = without_section(TEXT, "search")
    assert found == TEXT.replace('[search]\ntrials = 3\n[search.space]\n"federation.lr" = [0.1, 0.2]\n', "")
    assert without_section(found, "search") == found
