"""Draw the lifecycle maps of the book: one with no stage lit (map_00.svg), and one for each stage (map_01..09.svg).

Run ``python book/images/make_maps.py`` after a change here, and commit the pictures with it.

The stages run as a snake, so that monitoring ends below feature engineering: retraining is one short arrow.
Each picture brings its own white card, so it reads the same on a light and on a dark page. Letters are
26 units high in a picture 720 wide: about 12 pixels on a phone.
"""

from __future__ import annotations

from pathlib import Path

STAGES = (
    "Collection",
    "Exploration",
    "Preprocessing",
    "Features",
    "Training",
    "Tuning",
    "Evaluation",
    "Deployment",
    "Monitoring",
)
WIDTH, HEIGHT = 720, 376
BOX_WIDTH, BOX_HEIGHT = 206, 84
GAP_X, GAP_Y = 33, 40
LEFT, TOP = 18, 22
INK, LINE, PALE, LIT, RETRAIN = "#1a1a1a", "#6b6b6b", "#eef1f4", "#0072b2", "#b34700"


def place(stage: int) -> tuple[int, int]:
    """Return the left upper corner of a stage's box; stages 4 to 6 run from right to left."""
    row, column = divmod(stage - 1, 3)
    if row == 1:
        column = 2 - column
    return LEFT + column * (BOX_WIDTH + GAP_X), TOP + row * (BOX_HEIGHT + GAP_Y)


def box(stage: int, lit: bool) -> str:
    """Return the box of a stage with its number and name."""
    x, y = place(stage)
    fill, ink = (LIT, "#ffffff") if lit else (PALE, INK)
    middle = x + BOX_WIDTH / 2
    return (
        f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="10" fill="{fill}" '
        f'stroke="{LIT if lit else "#c4ccd4"}" stroke-width="2"/>'
        f'<g fill="{ink}" text-anchor="middle">'
        f'<text x="{middle}" y="{y + 32}" font-size="22">{stage}</text>'
        f'<text x="{middle}" y="{y + 64}">{STAGES[stage - 1]}</text></g>'
    )


def arrow(stage: int) -> str:
    """Return the arrow from a stage to the next."""
    (x1, y1), (x2, y2) = place(stage), place(stage + 1)
    if y1 == y2:
        forward = x2 > x1
        start, end = (x1 + BOX_WIDTH + 3, x2 - 5) if forward else (x1 - 3, x2 + BOX_WIDTH + 5)
        middle = y1 + BOX_HEIGHT / 2
        path = f"M{start},{middle} H{end}"
    else:
        middle = x1 + BOX_WIDTH / 2
        path = f"M{middle},{y1 + BOX_HEIGHT + 3} V{y2 - 5}"
    return f'<path d="{path}" stroke="{LINE}" stroke-width="3" fill="none" marker-end="url(#next)"/>'


def retraining() -> str:
    """Return the dashed arrow from monitoring back to the features, with its word."""
    (x, y_from), (_, y_to) = place(9), place(4)
    middle = x + BOX_WIDTH * 0.85
    path = f"M{middle},{y_from - 3} V{y_to + BOX_HEIGHT + 6}"
    return (
        f'<path d="{path}" stroke="{RETRAIN}" stroke-width="3" stroke-dasharray="6 4" fill="none" '
        f'marker-end="url(#again)"/>'
        f'<text x="{middle - 12}" y="{y_from - 12}" fill="{RETRAIN}" font-size="24" '
        f'text-anchor="end">retraining</text>'
    )


def marker(name: str, color: str) -> str:
    """Return the definition of an arrow head."""
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="5" markerHeight="5" orient="auto">'
        f'<path d="M0,0 L8,4 L0,8 z" fill="{color}"/></marker>'
    )


def draw(lit: int) -> str:
    """Return the picture with stage `lit` lit; 0 lights none."""
    title = (
        f"Lifecycle map, stage {lit} of 9 lit: {STAGES[lit - 1]}" if lit else "Lifecycle map: nine stages and a loop"
    )
    order = ", ".join(f"{number} {name}" for number, name in enumerate(STAGES, 1))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-labelledby="title what" font-size="26" '
        f'font-family="system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif">',
        f'<title id="title">{title}</title>',
        f'<desc id="what">The stages in order: {order}. Retraining leads from 9 back to 4.</desc>',
        f"<defs>{marker('next', LINE)}{marker('again', RETRAIN)}</defs>",
        f'<rect x="1" y="1" width="{WIDTH - 2}" height="{HEIGHT - 2}" rx="14" fill="#ffffff" stroke="#d5dae0"/>',
        *(arrow(stage) for stage in range(1, 9)),
        retraining(),
        *(box(stage, stage == lit) for stage in range(1, 10)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    for number in range(10):
        (Path(__file__).parent / f"map_{number:02d}.svg").write_text(draw(number), encoding="utf-8")
