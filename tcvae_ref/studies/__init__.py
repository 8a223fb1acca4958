"""The paper's experiments: studies as files, runs that survive being killed, tables, figures and a page."""

from tcvae_ref.studies.study import RunSpec, Study, read, shipped

__all__ = ["RunSpec", "Study", "read", "shipped"]
