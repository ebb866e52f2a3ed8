"""A direction in the activations of a model: how a network looks, and how it is read out.

The words are those of multivariate pattern analysis. An *activation pattern* says how activations change with a
condition. An *extraction filter* says how to weigh activations so that the condition is read out and other variance is
not (Haufe et al. 2014, NeuroImage 87). The filter is the pattern whitened by the noise covariance (multivariate noise
normalization, Walther et al. 2016, NeuroImage 137).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from llm2bids.errors import SpaceError
from llm2bids.space.mask import UnitMask
from llm2bids.space.units import UnitSpace, html_table

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import nibabel as nib
    import pandas as pd
    from nibabel.spatialimages import SpatialImage
    from numpy.typing import ArrayLike, NDArray

Along = Literal["filter", "pattern", "oblique"]
"""Which direction is read from the activations, and which is written to them."""
_TINY = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class UnitPattern:
    """One or several directions per hookpoint, in raw activations: the signed sister of `UnitMask`.

    Parameters
    ----------
    space : UnitSpace
        Where the units live.
    pattern : ndarray of float, shape (n_directions, n_units), optional
        Activation pattern: how activations differ between a condition and its reference, in raw activation.
    filter : ndarray of float, shape (n_directions, n_units), optional
        Extraction filter, per raw activation. One of the two is needed.
    reference : ndarray of float, shape (n_units,), optional
        Mean activation over the reference, to which a component is set when it is removed.
    spread : ndarray of float, shape (n_directions, n_hookpoints), optional
        Standard deviation over prompts, within conditions, of the component along the filter (where there is none, the
        pattern) of unit length: the step of steering.
    provenance : mapping
        Where it comes from: model, revision, contrast, reference and the like; JSON values.

    Raises
    ------
    SpaceError
        If a shape does not fit the space, a value is not finite, or there is neither pattern nor filter.

    Examples
    --------
    >>> space = UnitSpace.uniform("block", ["h.0:out", "h.1:out"], 9)
    >>> lungs, bones = np.eye(18)[[0]] + np.eye(18)[[9]], np.eye(18)[[0]]
    >>> UnitPattern(space, pattern=lungs).cosines(UnitPattern(space, pattern=bones)).tolist()
    [1.0, 0.0]
    """

    space: UnitSpace
    pattern: NDArray[np.float64] | None = None
    filter: NDArray[np.float64] | None = None
    reference: NDArray[np.float64] | None = None
    spread: NDArray[np.float64] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise if a shape does not fit; make all values float64."""
        if self.pattern is None and self.filter is None:
            raise SpaceError("neither a pattern nor a filter found; give one of them, or both")
        for name in ("pattern", "filter"):
            if (values := getattr(self, name)) is not None:
                rows = np.atleast_2d(np.asarray(values, np.float64))
                self._set(name, rows, (self.n_directions if name == "filter" else len(rows), self.space.n_units))
        if self.reference is not None:
            self._set("reference", np.asarray(self.reference, np.float64), (self.space.n_units,))
        if self.spread is not None:
            spread = np.atleast_2d(np.asarray(self.spread, np.float64))
            self._set("spread", spread, (self.n_directions, self.space.n_hookpoints))

    def _set(self, name: str, values: NDArray[np.float64], shape: tuple[int, ...]) -> None:
        """Keep an array that has the shape it needs."""
        if values.shape != shape:
            raise SpaceError(f"a {name} of shape {values.shape} found; {self.space.label} needs {shape}")
        if not np.isfinite(values).all():
            raise SpaceError(f"a {name} with NaN or infinity found; write 0 where there is no value")
        object.__setattr__(self, name, values)

    @property
    def n_directions(self) -> int:
        """Number of directions per hookpoint."""
        values = self.pattern if self.pattern is not None else self.filter
        return len(np.atleast_2d(values))  # type: ignore[arg-type]

    @property
    def kind(self) -> str:
        """What there is: ``"pattern"``, ``"filter"`` or ``"pattern and filter"``."""
        return " and ".join(name for name in ("pattern", "filter") if getattr(self, name) is not None)

    @property
    def name(self) -> str:
        """Name of its contrast; empty where its provenance names none."""
        contrast = self.provenance.get("Contrast", "")
        return str(contrast.get("Name", "") if isinstance(contrast, dict) else contrast)

    def directions(self, along: Along | None = None) -> NDArray[np.float64]:
        """Give the direction that is read from the activations.

        Parameters
        ----------
        along : {"filter", "pattern", "oblique"}, optional
            Which; by default the filter where there is one.

        Returns
        -------
        ndarray, shape (n_directions, n_units)
            The filter, or the pattern.

        Raises
        ------
        SpaceError
            If it is not there.
        """
        name = "pattern" if along == "pattern" or (along is None and self.filter is None) else "filter"
        values: NDArray[np.float64] | None = getattr(self, name)
        if values is None:
            raise SpaceError(f"no {name} found, only a {self.kind}; fit both with glm, or choose along={self.kind!r}")
        return values

    @classmethod
    def from_image(
        cls,
        image: SpatialImage,
        space: UnitSpace,
        kind: Literal["pattern", "filter"] = "pattern",
        *,
        scale: SpatialImage | ArrayLike | None = None,
        one_sd: float = 1.0,
        reference: SpatialImage | ArrayLike | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> UnitPattern:
        """Take a signed map of any program as a pattern or a filter.

        Parameters
        ----------
        image : nibabel image, shape (x, y, z) or (x, y, z, n_directions)
            FSL's cope, AFNI's coefficient, SPM's con, nilearn's effect size or Decoder weights, on the grid of `space`.
        space : UnitSpace
            Where the units live.
        kind : {"pattern", "filter"}
            An effect per unit is a pattern, the weights of a decoder are a filter.
        scale : nibabel image or array_like, shape (n_units,), optional
            Raw activation per standard deviation of each unit: the ``stat-sd`` map that prep writes. By default the
            image is in raw activation.
        one_sd : float
            With `scale`: what the image counts for one standard deviation. 1 in maps that glm writes, 100 in maps that
            other programs make of prepared volumes (``OneStandardDeviation`` in their sidecar).
        reference : nibabel image or array_like, shape (n_units,), optional
            Mean raw activation over the reference, for instance the ``stat-mean`` map that prep writes.
        provenance : mapping, optional
            Where the map comes from.

        Returns
        -------
        UnitPattern
            With one direction per volume.

        Raises
        ------
        SpaceError
            If the grid differs or a value is not finite.
        """
        signals = np.atleast_2d(np.asarray(space.to_signals(image), np.float64))
        steps = np.ones(space.n_units) if scale is None else _per_unit(scale, space) / one_sd
        # A pattern is in units of the map; a filter is read from the map, so it goes the other way.
        raw = signals * steps if kind == "pattern" else signals / np.where(steps == 0, np.inf, steps)
        means = None if reference is None else _per_unit(reference, space)
        return cls(space, **{kind: raw}, reference=means, provenance=dict(provenance or {}))

    def to_image(self, kind: Literal["pattern", "filter"] | None = None) -> nib.Nifti1Image:
        """Make the pattern or the filter an image, in raw activation.

        Parameters
        ----------
        kind : {"pattern", "filter"}, optional
            Which; by default the filter where there is one.

        Returns
        -------
        Nifti1Image
            float32, shape (x, y, z), or (x, y, z, n_directions) where there are several.
        """
        values = self.directions(kind).astype(np.float32)
        return self.space.to_image(values[0] if len(values) == 1 else values)

    def table(self) -> pd.DataFrame:
        """List all units with their weights.

        Returns
        -------
        DataFrame
            ``unit``, ``hookpoint``, ``block``, ``channel``, and those of ``pattern1``, ``filter1``, ... there are.
        """
        import pandas as pd  # noqa: PLC0415 - recording a model needs no table of units

        units = np.arange(self.space.n_units)
        hookpoint, channel = self.space.locate(units)
        columns = {
            f"{name}{number}": row
            for name in ("pattern", "filter")
            for number, row in enumerate(() if getattr(self, name) is None else getattr(self, name), 1)
        }
        return pd.DataFrame(
            {
                "unit": units,
                "hookpoint": np.asarray(self.space.hookpoints, object)[hookpoint],
                "block": np.asarray(self.space.blocks, np.int64)[hookpoint],
                "channel": channel,
                **columns,
            }
        )

    def expression(self, signals: ArrayLike, along: Along | None = None) -> NDArray[np.float64]:
        """Say how strongly activations express the pattern at each hookpoint.

        Parameters
        ----------
        signals : array_like, shape (n_scans, n_units)
            Raw activations.
        along : {"filter", "pattern", "oblique"}, optional
            What reads them; by default the filter where there is one.

        Returns
        -------
        ndarray, shape (n_scans, n_directions, n_hookpoints)
            Component along the direction of unit length, from the reference; in units of `spread` where it is there and
            of that direction.
        """
        values, rows = np.asarray(signals, np.float64), unit_length(self.directions(along), self.space)
        centred = values if self.reference is None else values - self.reference
        parts = zip(self.space.split(centred), self.space.split(rows), strict=True)
        components = np.stack([part @ direction.T for part, direction in parts], axis=-1)
        if self.spread is None or self.directions(along) is not self.directions():
            return components
        return components / np.maximum(self.spread, _TINY)

    def cosines(self, other: UnitPattern, kind: Literal["pattern", "filter"] = "pattern") -> NDArray[np.float64]:
        """Compare the first direction with that of another pattern.

        Parameters
        ----------
        other : UnitPattern
            Of the same space.
        kind : {"pattern", "filter"}
            What is compared.

        Returns
        -------
        ndarray, shape (n_hookpoints,)
            Cosine at each hookpoint; 0 where one of them is 0.

        Raises
        ------
        SpaceError
            If the spaces differ or one lacks what is compared.
        """
        self._check_space(other)
        first, second = (unit_length(each.directions(kind)[:1], self.space) for each in (self, other))
        return np.add.reduceat((first * second)[0], self.space.starts())

    def at_blocks(self, blocks: Collection[int]) -> UnitPattern:
        """Leave only some blocks of the model; elsewhere there is no direction.

        Parameters
        ----------
        blocks : collection of int
            Numbers of blocks, the first is 0.

        Returns
        -------
        UnitPattern
            Pattern and filter, 0 at all hookpoints of other blocks.

        Raises
        ------
        SpaceError
            If the space lacks one of them.
        """
        if missing := sorted(set(blocks) - set(self.space.blocks)):
            have = f"{min(self.space.blocks)} to {max(self.space.blocks)}"
            raise SpaceError(f"blocks {', '.join(map(str, missing))} found; {self.space.label} has {have}")
        here = np.repeat(np.isin(self.space.blocks, list(blocks)), self.space.n_channels)
        rows = {name: getattr(self, name) for name in ("pattern", "filter")}
        changed = {name: values * here for name, values in rows.items() if values is not None}
        return replace(self, **changed, provenance={**self.provenance, "Blocks": sorted(set(blocks))})

    def orthogonal_to(self, others: Sequence[UnitPattern]) -> UnitPattern:
        """Take the directions of other patterns out of this one, hookpoint by hookpoint.

        Parameters
        ----------
        others : sequence of UnitPattern
            Of the same space.

        Returns
        -------
        UnitPattern
            Pattern and filter without the part that lies in the span of the others'.

        Raises
        ------
        SpaceError
            If a space differs.
        """
        changed: dict[str, Any] = {}
        for name in ("pattern", "filter"):
            if getattr(self, name) is None:
                continue
            rows = np.array(getattr(self, name))
            for start, stop in self._ranges():
                span = np.concatenate([each._of(self, name)[:, start:stop] for each in others])  # noqa: SLF001
                basis = orthonormal_basis(span)
                rows[:, start:stop] -= rows[:, start:stop] @ basis @ basis.T
            changed[name] = rows
        names = [each.name for each in others]
        return replace(self, **changed, spread=None, provenance={**self.provenance, "OrthogonalTo": names})

    @classmethod
    def together(cls, patterns: Sequence[UnitPattern]) -> UnitPattern:
        """Put patterns together as the directions of one: the subspace that they span.

        Parameters
        ----------
        patterns : sequence of UnitPattern
            Of the same space, each with what the first has.

        Returns
        -------
        UnitPattern
            With all directions; the reference is the mean of the references.

        Raises
        ------
        SpaceError
            If a space differs or one lacks what the first has.
        """
        first = patterns[0]
        stacked: dict[str, Any] = {}
        for name in ("pattern", "filter"):
            if getattr(first, name) is not None:
                stacked[name] = np.concatenate([each._of(first, name) for each in patterns])  # noqa: SLF001
        references = [each.reference for each in patterns if each.reference is not None]
        spreads = [each.spread for each in patterns if each.spread is not None]
        return cls(
            first.space,
            **stacked,
            reference=np.mean(references, axis=0) if len(references) == len(patterns) else None,
            spread=np.concatenate(spreads) if len(spreads) == len(patterns) else None,
            provenance={"Together": [dict(each.provenance) for each in patterns]},
        )

    def __repr__(self) -> str:
        """One line: label of the space, kind, and number of directions."""
        return f"<UnitPattern {self.space.label}: {self.kind}, {self.n_directions} direction(s) per hookpoint>"

    def _repr_html_(self) -> str:
        """A table of the length of the direction at each hookpoint, for notebooks."""
        lengths = np.sqrt(np.add.reduceat(self.directions() ** 2, self.space.starts(), axis=1))
        rows = zip(self.space.blocks, self.space.hookpoints, *np.round(lengths, 4).tolist(), strict=True)
        header = ("block", "hookpoint", *(f"length {number}" for number in range(1, self.n_directions + 1)))
        return html_table(repr(self), header, rows)

    def _of(self, first: UnitPattern, name: str) -> NDArray[np.float64]:
        """Pattern or filter, checked against the space of another."""
        first._check_space(self)
        values: NDArray[np.float64] | None = getattr(self, name)
        if values is None:
            raise SpaceError(f"a pattern without {name} found; all of them need what the first has: {first.kind}")
        return values

    def _check_space(self, other: UnitPattern) -> None:
        """Raise if the other lies in another space."""
        if self.space.to_json() != other.space.to_json():
            raise SpaceError(
                f"patterns of {self.space.label} and {other.space.label} found; use patterns of one model and site"
            )

    def _ranges(self) -> list[tuple[int, int]]:
        """First unit of each hookpoint, and that of the next."""
        edges = [*self.space.starts().tolist(), self.space.n_units]
        return list(pairwise(edges))


Network: TypeAlias = UnitMask | UnitPattern
"""A choice of units, or a direction in their activations."""


def unit_length(rows: NDArray[np.float64], space: UnitSpace) -> NDArray[np.float64]:
    """Scale the part of each row at each hookpoint to length 1; a part that is 0 stays 0.

    `rows` (n_directions, n_units).
    """
    lengths = np.sqrt(np.add.reduceat(rows**2, space.starts(), axis=1))
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    scaled: NDArray[np.float64] = rows * np.repeat(inverse, space.n_channels, axis=1)
    return scaled


def orthonormal_basis(span: NDArray[np.float64]) -> NDArray[np.float64]:
    """An orthonormal basis (n_channels, rank) of rows (n_rows, n_channels)."""
    _, singular, right = np.linalg.svd(span, full_matrices=False)
    basis: NDArray[np.float64] = right[singular > _TINY * max(singular.max(initial=0.0), _TINY)].T
    return basis


def _per_unit(values: Any, space: UnitSpace) -> NDArray[np.float64]:
    """An image or an array as one number per unit."""
    signals = space.to_signals(values) if hasattr(values, "affine") else values
    return np.asarray(signals, np.float64).reshape(-1)
