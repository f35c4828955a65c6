"""Why nobody can tell what is needed, in sentences that say how to go on."""

SHORT = 12


def no_list(folder: str, manifest: str) -> str:
    """A manifest that nobody has cached completely, or with an earlier version."""
    return (
        f"manifest {manifest[:SHORT]} has no list of its records yet: run `cogvx cache` with its "
        f"recipe, or remove manifests/{folder}/ if nobody wants it"
    )


def no_spec(run: str) -> str:
    """A run that an earlier version finished."""
    return (
        f"run {run[:SHORT]} ended before runs were kept with their records: remove runs/{run}/ if "
        "nobody needs its records"
    )


def no_records(version: str) -> str:
    """A version whose run is gone, and whose clips were cached with an earlier version."""
    return (
        f"the records of {version} are in no list: run `cogvx cache` with its recipe, or remove "
        "its manifest if nobody needs them"
    )


def no_evaluation(version: str) -> str:
    """A version that an earlier version of cogvx judged."""
    return (
        f"{version} was judged before evaluations were listed: run `cogvx evaluate` with its "
        "recipe, or delete the version"
    )
