"""The table for a paper."""

from __future__ import annotations

from sparserl_jax.bench.columns import COLUMNS, blocks, heading, texts
from sparserl_jax.bench.remarks import remarks
from sparserl_jax.bench.summary import Summary


def _tex(text: str) -> str:
    for plain, escaped in (
        ("\\", r"\textbackslash "),
        ("_", r"\_"),
        ("%", r"\%"),
        ("&", r"\&"),
        ("#", r"\#"),
        ("$", r"\$"),
        (">=", r"$\geq$"),
        ("<", r"$<$"),
    ):
        text = text.replace(plain, escaped)
    return text


def latex(summary: Summary) -> str:
    """The table for a paper: needs `booktabs` and `graphicx`; one tabular per environment."""
    lines = [r"% needs \usepackage{booktabs,graphicx}", r"\begin{table*}[t]", r"\centering\footnotesize"]
    for block, columns in blocks(summary):
        names = [COLUMNS[index] for index in columns]
        lines += [
            rf"\textbf{{{_tex(heading(block))}}}\\[2pt]",
            *([rf"\emph{{{_tex(block.reason)}}}\\[2pt]"] if block.reason is not None else []),
            r"\resizebox{\textwidth}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * (len(names) - 1)}}}",
            r"\toprule",
            " & ".join(_tex(name) for name in names) + r" \\",
            r"\midrule",
            *(
                " & ".join(_tex(cell).replace("+", "$+$") for cell in row) + r" \\"
                for row in texts(block, columns)
            ),
            r"\bottomrule",
            r"\end{tabular}}\\[8pt]",
        ]
        lines += [rf"{_tex(line)}\\[8pt]" for line in remarks(block)]
    caption = _tex(f"{summary.title}. " + " ".join(summary.caption))
    lines += [rf"\caption{{{caption}}}", rf"\label{{tab:{summary.name}}}", r"\end{table*}"]
    return "\n".join(lines) + "\n"
