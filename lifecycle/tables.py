"""Tables of a page. Apart from the figures, which stages draw too: how a page looks must not rebuild a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
