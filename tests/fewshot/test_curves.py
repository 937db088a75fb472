from foedus.study import FewShotSection


def test_ways_above_those_asked_for_are_left_out_and_n_way_is_there() -> None:
    assert FewShotSection(n_way=5).ways == [2, 5]
    assert FewShotSection(n_way=12).ways == [2, 5, 10, 12]
    assert FewShotSection(n_way=7, curve_ways=[3, 4]).ways == [3, 4, 7]
    assert FewShotSection(n_way=2).ways == [2]


def test_shots_hold_n_shot() -> None:
    assert FewShotSection(n_shot=3, curve_shots=[5, 1]).shots == [1, 3, 5]
