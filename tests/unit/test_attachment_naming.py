"""What a file is called and what it is: read from headers, and nothing doubtful taken."""

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.attachments.naming import NAME_BYTES, Unfit, content_type, file_name, fit_name


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ('attachment; filename="invoice.pdf"', "invoice.pdf"),
        ("attachment; filename=invoice.pdf", "invoice.pdf"),
        ("ATTACHMENT;FileName = invoice.pdf", "invoice.pdf"),
        ('form-data; name="file"; filename="a b; c=d.pdf"', "a b; c=d.pdf"),
        (r'attachment; filename="a\"b.pdf"', 'a"b.pdf'),
        ("attachment; filename*=UTF-8''Rechnung%20f%C3%BCr%20K%C3%A4the.pdf", "Rechnung für Käthe.pdf"),
        ("attachment; filename*=utf-8'de'a%27b.pdf", "a'b.pdf"),
        ("attachment; filename=\"fallback.pdf\"; filename*=UTF-8''%E2%82%AC.pdf", "€.pdf"),
        ("attachment; filename*=UTF-8''%E2%82%AC.pdf; filename=fallback.pdf", "€.pdf"),
        ('attachment; filename="Käthe.pdf"'.encode().decode("latin-1"), "Käthe.pdf"),
    ],
)
def test_a_name_is_read_as_the_standard_has_it(header: str, name: str) -> None:
    assert file_name(header) == name


@pytest.mark.parametrize(
    "header",
    [
        "", " ", "attachment", "attachment; filename=", 'attachment; filename=""',
        'attachment; filename=" "',
        'attachment; filename=" a.pdf"', "attachment; filename=../../etc/passwd",
        'attachment; filename="a/b"',
        r'attachment; filename="C:\\a.pdf"', 'attachment; filename=".."', 'attachment; filename="."',
        "attachment; filename*=UTF-8''a%0D%0ABcc%3A%20x", "attachment; filename*=UTF-8''a%00b",
        "attachment; filename*=UTF-8''%2e%2e", "attachment; filename*=UTF-8''..%2Fa",
        "attachment; filename*=a",
        "attachment; filename*=UTF-8''%FF", "attachment; filename*=iso-8859-1''a",
        "attachment; filename*=UTF-8''",
        "attachment; filename*=UTF-8''a%E2%80%AEfdp.exe", "attachment; filename*0=a; filename*1=b",
        "attachment; filename=a; filename=b", 'attachment; filename="a', "attachment; filename=a b",
        'attachment; filename="a\r\nb"', "attachment filename=a", "; filename=a", "attachment; =a",
        'attachment; filename="\xe4.pdf"', "attachment; filename=" + "x" * (NAME_BYTES + 1),
        "attachment; filename*=UTF-8''" + "%C3%A4" * (NAME_BYTES // 2 + 1),
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused_by_its_field(header: str) -> None:
    with pytest.raises(Unfit) as told:
        file_name(header)
    assert told.value.field == "name"
    assert "passwd" not in str(told.value)


@given(st.text(st.characters(codec="utf-8"), max_size=80))
@example("\u202e")
@example("a\\b")
def test_every_name_that_fits_survives_its_header_and_no_other_does(name: str) -> None:
    header = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    try:
        fit_name(name)
    except Unfit:
        with pytest.raises(Unfit):
            file_name(header)
    else:
        assert file_name(header) == name
        assert not set("/\\\r\n\0") & set(name)


@given(st.text(max_size=60))
@example('a; b="' + "\\" * 40)
def test_any_header_is_read_or_refused(header: str) -> None:
    for read in (file_name, content_type):
        try:
            assert read(header)
        except Unfit as error:
            assert str(error)


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("", "application/octet-stream"),
        ("application/pdf", "application/pdf"),
        ("Application/PDF", "application/pdf"),
        ("text/csv; charset=UTF-8", "text/csv; charset=utf-8"),
        ('text/csv;charset="utf-8"', "text/csv; charset=utf-8"),
        ("text/csv; header=present; charset=utf-8", "text/csv; charset=utf-8"),
        ("application/vnd.ms-excel; name=a", "application/vnd.ms-excel"),
    ],
)
def test_a_type_keeps_its_charset_alone(header: str, kind: str) -> None:
    assert content_type(header) == kind


@pytest.mark.parametrize(
    "header",
    [
        "pdf", "application/", "/pdf", "application/pdf/x", "a b/c", "application/pdf\r\nBcc: x",
        "multipart/form-data; boundary=x", "message/rfc822", "text/csv; charset=a; charset=b",
        'text/csv; charset="a b"', 'text/csv; charset="a\r\nb"', "text/" + "x" * 200, "tëxt/plain",
    ],
)  # fmt: skip
def test_what_is_no_type_to_attach_is_refused_by_its_field(header: str) -> None:
    with pytest.raises(Unfit) as told:
        content_type(header)
    assert told.value.field == "content_type"
