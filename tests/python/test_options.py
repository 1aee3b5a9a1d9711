"""papilio.Options and the environment: every field, every bad value, named clearly."""

import dataclasses

import pytest

import papilio
from papilio import _options

BAD = [
    ("mode", "sloppy", "'bounded'"),
    ("mode", 3, "'bounded'"),
    ("patience", -1.0, "0.05"),
    ("patience", "soon", "0.05"),
    ("patience", float("nan"), "0.05"),
    ("patience", True, "0.05"),
    ("fallback", "one", "'zero'"),
    ("slow_strikes", 0, "1"),
    ("slow_strikes", 2.5, "1"),
    ("blacklist_seconds", 0, "3600"),
    ("min_peers", 0, "1"),
    ("quorum", "some", "'live'"),
    ("weight", -0.5, "0"),
    ("weight", float("inf"), "0"),
    ("fingerprint", 5, "text"),
    ("nonfinite", "keep", "'drop'"),
    ("codec", "zip", "'raw'"),
    ("integrity", "none", "'payload'"),
    ("transport", "carrier pigeon", "'auto'"),
    ("hierarchy", "rack", "'host'"),
    ("interface", 7, "text"),
    ("report_history", 0, "1"),
]


def test_defaults_are_those_of_the_documentation():
    options = papilio.Options().validate()
    assert (options.mode, options.patience, options.fallback) == ("bounded", 5.0, "local")
    assert (options.slow_strikes, options.blacklist_seconds) == (3, 30.0)
    assert (options.min_peers, options.weight, options.report_history) == (1, 1.0, 256)
    assert (options.nonfinite, options.codec, options.integrity) == ("drop", "raw", "payload")
    assert (options.quorum, options.transport) == ("live", "auto")
    assert (options.fingerprint, options.interface) == ("", "")


@pytest.mark.parametrize("field,value,allowed", BAD)
def test_bad_value_names_field_value_and_range(field, value, allowed):
    with pytest.raises(ValueError) as caught:
        papilio.Options(**{field: value}).validate()
    text = str(caught.value)
    assert f"Options.{field}" in text and repr(value) in text and allowed in text


def test_unknown_option_is_a_type_error():
    with pytest.raises(TypeError, match="patients"):
        papilio.Options(patients=3)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(papilio.Options)])
def test_every_field_has_its_variable(field, monkeypatch):
    default = _options._DEFAULTS[field]
    other = {"mode": "strict", "fallback": "zero", "nonfinite": "propagate"}
    other |= {"integrity": "header", "transport": "ucx", "quorum": "live", "codec": "int8"}
    other |= {"hierarchy": "host"}
    if field == "host_backend":  # means nothing without
        monkeypatch.setenv("PAPILIO_HIERARCHY", "host")
    value = other.get(field, "text" if isinstance(default, str) else 2)
    monkeypatch.setenv(f"PAPILIO_{field.upper()}", str(value))
    assert getattr(papilio.Options().validate(), field) == type(default)(value)
    # An explicit field wins.
    explicit = {field: default}
    assert getattr(papilio.Options(**explicit).validate(), field) == default


def test_bad_variable_is_named(monkeypatch):
    monkeypatch.setenv("PAPILIO_PATIENCE", "much")
    with pytest.raises(ValueError, match="PAPILIO_PATIENCE='much'.*between 0.05 and 3600"):
        papilio.Options().validate()
    monkeypatch.setenv("PAPILIO_LOG", "loud")
    with pytest.raises(ValueError, match="PAPILIO_LOG='loud'.*debug"):
        _options.log_level()


def test_unknown_variable_is_reported_once_with_the_nearest(monkeypatch, capsys):
    monkeypatch.setenv("PAPILIO_PATIENSE", "3")
    monkeypatch.setattr(_options, "_warned", set())
    _options.warn_unknown_variables()
    _options.warn_unknown_variables()
    text = capsys.readouterr().err
    assert text.count("PAPILIO_PATIENSE") == 1 and "did you mean PAPILIO_PATIENCE?" in text
