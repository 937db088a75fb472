"""The coordinator's question to the sites that serve: what went through the model? Answered by one sum."""

from collections.abc import Mapping

from flwr.serverapp import Grid

from foedus import files, records
from foedus.backbones import describe
from foedus.errors import DoorError
from foedus.runs import RunFolder
from foedus.statistic import Arrays
from foedus.study import Study
from foedus.traffic import ASKED_FILE, SUM_FILE, Asked, Traffic
from server.federation import Federation, Note


def pool(
    grid: Grid,
    study: Study,
    run_id: str,
    asked: Asked,
    *,
    approved: Mapping[int, str] | None = None,
    note: Note | None = None,
) -> Arrays:
    """The sum of the sites' journals, through the study's own door.

    Args:
        grid: Flower's.
        study: Of the model that is served.
        run_id: Names the question.
        asked: Version, window and groups.
        approved: Node id to the name it was approved under.
        note: As `Federation.note`.

    Raises:
        DoorError: If the study is private.
        RoundError: If too few sites answer, or fewer than `asked.fewest` records are behind the sum.
    """
    require_not_private(study)
    federation = Federation.enlist(grid, study, run_id, approved=approved, note=note)
    traffic = Traffic(asked, study, dim=describe(study.backbone, study.table).dim)
    messages = federation.messages(
        records.QUERY_TRAFFIC, federation.cohort, config={records.SETTINGS: asked.model_dump_json()}
    )
    total, gathered = federation.total(messages, traffic.declare(), what="asking for traffic")
    federation.note("asking for traffic", gathered.rejected)
    return total


def require_not_private(study: Study) -> None:
    """Traffic has no part in a privacy budget.

    Raises:
        DoorError: If the study is private.
    """
    if study.door.private:
        raise DoorError(
            f'the study\'s door is "{study.door.mode}", and its privacy budget has no part for sums of traffic: let '
            "each site run foedus monitor on its own journal"
        )


def conduct_pool(grid: Grid, run: RunFolder, *, approved: Mapping[int, str] | None = None) -> None:
    """The question in a run folder, and its answer beside it."""
    asked = Asked.from_json((run.path / ASKED_FILE).read_text(encoding="utf-8"))
    total = pool(grid, run.study(), run.run_id, asked, approved=approved, note=run.note_absent)
    files.write_arrays(run.path / SUM_FILE, total)
    run.log("traffic", version=asked.version, day=None if asked.day is None else str(asked.day))
