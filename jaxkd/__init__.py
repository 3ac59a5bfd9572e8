"""jaxkd: train object detectors in JAX and distil a big one into a small one."""

from jaxkd.version import VERSION

__version__ = VERSION


def load(path, *, classes=()):
    """A detector to call with pictures, from a workdir, a folder of weights or a published file (or FILE:PART).

    The same as `jaxkd.predictor.load`; jax is imported only when it is called.
    """
    from jaxkd import predictor  # late: jax is slow to load, and `jaxkd --help` and `--version` do not need it

    return predictor.load(path, classes=classes)


def distill_folder(
    folder, *, workdir="", minutes=0.0, seeds=1, format="", val="", classes=(), baseline=True, anyway=False, **settings
):
    """From a folder of annotated pictures to a student that is taught and compared, as `jaxkd distill` does it.

    It prints what it does, and does not export the student. The same call again goes on where it stopped. `classes`
    are the names of those that are learned, in their order, () for all. Without `baseline` the student is not trained
    alone. `settings` are the fields of `jaxkd.derive.recipes.Options`: teacher, student, size, method, augment,
    initial, teacher_initial, unlabelled, epochs and seed. Returns a `jaxkd.distillation.Result`: the plan and the
    comparisons.
    """
    from jaxkd import distillation  # late, as in `load`
    from jaxkd.train import compile_cache

    compile_cache.use()
    chosen = {"minutes": minutes, "seeds": seeds, "format": format, "val": str(val)}
    chosen |= {"classes": classes, "baseline": baseline, "anyway": anyway}
    options = distillation.options(str(folder), settings, **chosen)
    return distillation.run(options, distillation.workdir_of(str(folder), str(workdir)))
