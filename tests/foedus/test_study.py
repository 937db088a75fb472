import pytest

from foedus.errors import ConfigError
from foedus.study import Study, parse_study

STUDY = """
[study]
name = "trial"
classes = ["crude-oil", "money_fx"]
{study}
[backbone]
source = "bundled:minilm-l6"
{backbone}
[door]
mode = "{door}"
"""


def _study(*, study: str = "", backbone: str = "", door: str = "open") -> Study:
    return parse_study(STUDY.format(study=study, backbone=backbone, door=door))


def test_other_tasks_are_refused_with_what_to_do_instead() -> None:
    with pytest.raises(
        ConfigError,
        match=r'"regression" is not supported, only "classification" and "multilabel"; cut the number',
    ):
        _study(study='task = "regression"')
    with pytest.raises(
        ConfigError, match=r"study.task: input should be 'classification' or 'multilabel' \(found 'ranking'\)"
    ):
        _study(study='task = "ranking"')
    with pytest.raises(ConfigError, match=r"study.task: input should be 'classification'"):
        _study(study='task = ["regression"]')


ASKED = {
    "[fewshot]\nn_way = 2": r"\[fewshot\] does not take multilabel; remove it",
    "[meta]\nn_way = 2": r"\[meta\] does not take multilabel; remove it",
    '[federation]\nstart = "prototypes"': r'federation.start = "prototypes" does not take multilabel; set start',
    '[fairness]\npolicy = "p.toml"': r"audits one label of a multilabel study; name it in study.positive",
    '[federation]\nbalance = "group"\nbalance_groups = { sex = ["f"] }': r"federation.balance does not take multilabel",
}


@pytest.mark.parametrize("section", ASKED)
def test_what_takes_one_class_a_record_is_refused_in_a_multilabel_study(section: str) -> None:
    text = STUDY.format(study='task = "multilabel"', backbone="", door="open")
    assert parse_study(text).multilabel
    with pytest.raises(ConfigError, match=ASKED[section]):
        parse_study(text + section)


@pytest.mark.parametrize("door", ["secure+ddp", "local-dp"])
def test_a_private_multilabel_study_is_not_searched(door: str) -> None:
    text = STUDY.format(study='task = "multilabel"', backbone="", door=door)
    assert parse_study(text).door.private
    with pytest.raises(ConfigError, match=r"\[search\] does not take multilabel in a private study"):
        parse_study(text + "[search]\ntrials = 4\n")


def test_class_texts_are_the_names_in_words_when_not_set() -> None:
    assert _study().study.texts == ["crude oil", "money fx"]
    assert _study(study='class_texts = ["oil", "currencies"]').study.texts == ["oil", "currencies"]


@pytest.mark.parametrize("texts", ['["oil"]', '["oil", " "]'])
def test_class_texts_that_do_not_fit_the_classes_are_refused(texts: str) -> None:
    with pytest.raises(ConfigError, match=r"class_texts holds \d texts for 2 classes; write one for each"):
        _study(study=f"class_texts = {texts}")


@pytest.mark.parametrize("door", ["secure+ddp", "local-dp"])
def test_alignment_is_refused_in_private_studies(door: str) -> None:
    with pytest.raises(ConfigError, match=r'align = "coral" asks for a covariance, which has no place in'):
        _study(backbone='align = "coral"', door=door)


def test_alignment_is_refused_where_the_backbone_learns() -> None:
    with pytest.raises(ConfigError, match=r'tune = "lora" moves them; set tune = "head" or align = "none"'):
        _study(backbone='align = "coral"\ntune = "lora"')
    assert _study(backbone='align = "coral"', door="secure-only").backbone.align == "coral"
