"""Tables of a page. Apart from the figures, which stages draw too: how a page looks must not rebuild a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from pandas.io.formats.style import Styler


def show_sentences(table: pd.DataFrame) -> Styler:
    """Return a table of sentences for a page: without row numbers, and with nothing cut off.

    Lines wrap in the book (``sentences`` in its style sheet); pandas would print the first 50 characters.

    Examples
    --------
    >>> import pandas as pd
    >>> made = show_sentences(pd.DataFrame({"share": [0.25], "what it says": ["x" * 60]})).to_html()
    >>> "x" * 60 in made, ">0.25<" in made
    (True, True)
    """
    floats = {name: "{:g}" for name in table.select_dtypes("float").columns}
    return table.style.hide(axis="index").format(floats).set_table_attributes('class="dataframe sentences"')


def show_numbers(table: pd.DataFrame, forms: Mapping[Any, str] | None = None, digits: int = 3) -> Styler:
    """Return a table of numbers for a page: thousands are separated, decimals are cut to a few.

    Parameters
    ----------
    table
        Whole numbers, floats, and whatever else, which stays as it is.
    forms
        Columns that read better in another form, such as ``{"saved (EUR)": "{:,.0f}"}``.
    digits
        Decimals of the other floats.

    Examples
    --------
    >>> import pandas as pd
    >>> made = show_numbers(pd.DataFrame({"read": [1769370], "share": [0.25]}), {"share": "{:.0%}"}).to_html()
    >>> ">1,769,370<" in made, ">25%<" in made
    (True, True)
    """
    whole = dict.fromkeys(table.select_dtypes("integer").columns, "{:,}")
    floats = dict.fromkeys(table.select_dtypes("float").columns, f"{{:,.{digits}f}}")
    return table.style.format(whole | floats | dict(forms or {}), na_rep="").set_table_attributes('class="dataframe"')
