"""The page as a reader meets it: in Chromium, from disk, with the network off."""

import json

import pytest
import torch
from conftest import CHARACTERS
from report_fixtures import another, both_file, browser, report_file, run, workplace

from owpo.core.deviation import kl_would_flip

WIDTHS = [390, 1400]


@pytest.fixture
def look(browser):
    """Opens a page; at the end nothing may have been asked for but the page, and the console must be empty."""
    contexts, requests, complaints = [], [], []

    def open_page(file, width=1400, **settings):
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert all(url.startswith("file://") and url.endswith(".html") for url in requests)


def choose(page, **filters):
    for name, value in filters.items():
        page.locator(f"#filters [name={name}]").select_option(value)


def place(page) -> tuple[int, int]:
    """Which response is shown, and of how many."""
    at, _, of = page.locator("#place").inner_text().partition(" of ")
    return int(at), int(of)


def everything(page):
    choose(page, stage="", kind="", verdict="", problem="")


def shown_record(page, run) -> dict:
    """The run's own record of the response on the page."""
    kind, stage, step, problem = page.evaluate(
        "(({kind, stage, step, problem}) => [kind, stage, step, problem])(document.querySelector('.tokens .t').record)"
    )
    pieces = page.evaluate(
        "[...document.querySelectorAll('.tokens .t')].map((t) => t.record.pieces[t.dataset.number])"
    )
    fits = [
        r
        for r in run.tokens
        if (r["kind"], r["stage"], r["step"], r["problem"], r["pieces"])
        == (kind, stage, step, problem, pieces)
    ]
    assert fits
    return fits[0]


def details(page) -> dict[str, str]:
    return page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#token dl div')].map((d) => [d.children[0].textContent, "
        "d.children[1].textContent]))"
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(look, report_file, both_file, width):
    for file in (report_file, both_file):
        assert look(file, width).evaluate("document.documentElement.scrollWidth") == width


@pytest.mark.parametrize("width", WIDTHS)
def test_a_chart_of_its_width_is_shown(look, report_file, width):
    page = look(report_file, width)
    shown = {
        name: page.locator(f"#run0-ratchet .chart.{name} svg").is_visible() for name in ("wide", "narrow")
    }
    assert shown == {"wide": width == 1400, "narrow": width == 390}


def test_the_answer_comes_first(look, report_file, run):
    page = look(report_file)
    last = run.result["rows"][-1]
    headline = page.locator("#answer .headline").inner_text()
    assert f"to {100 * last['accuracy']:.1f}% ({last['version']})" in headline
    cells = page.locator("#answer tbody tr").last.locator("td").all_inner_texts()
    assert cells[0] == last["version"]
    assert cells[5] == f"{100 * last['low']:.1f} to {100 * last['high']:.1f}"


def test_the_reader_moves_through_the_stages(look, report_file, run):
    page = look(report_file)
    everything(page)
    assert place(page) == (1, len(run.tokens))
    for stage in run.stages:
        choose(page, stage=str(stage))
        mine = [record for record in run.tokens if record["stage"] == stage]
        assert place(page) == (1, len(mine))
        steps = page.locator("#filters [name=step] option").all_inner_texts()
        assert steps == ["all", *dict.fromkeys(str(record["step"]) for record in mine)]
        assert f"stage {stage}," in page.locator(".response h3").inner_text()


def test_a_token_tells_what_the_run_recorded(look, report_file, run):
    page = look(report_file)
    choose(page, stage="3", kind="training")
    told = 0
    for _ in range(6):
        record = shown_record(page, run)
        for number in range(len(record["pieces"])):
            page.locator(".tokens .t").nth(number).hover()
            found = details(page)
            assert found["log π"] == f"{record['logp'][number]:.4f}"
            for name, key in (("δ", "delta"), ("log ref", "ref_logp")):
                value = record[key][number]
                assert found[name] == (
                    "–" if value is None else f"{value:.4f}".replace("-0.0000", "0.0000")
                ), record
            weight = record["weight"][number]
            kind = "accelerated" if weight > 1 else "locked" if weight < 1 else "neutral"
            assert found["w"] == f"{weight:.4f} {kind}"
            assert found["token"] == f"{number + 1}: {json.dumps(record['pieces'][number])}"
            look_of = page.locator(".tokens .t").nth(number).get_attribute("class")
            assert (kind in look_of) == (kind != "neutral")
            told += 1
        page.locator("#next").click()
    assert told > 12


def test_wrong_answers_alone(look, report_file, run):
    page = look(report_file)
    everything(page)
    choose(page, verdict="wrong")
    wrong = [record for record in run.tokens if record["verdict"] != "correct"]
    assert place(page) == (1, len(wrong))
    for _ in range(5):
        assert "✗" in page.locator(".verdict").inner_text()
        page.locator("#next").click()
    choose(page, verdict="right")
    assert place(page)[1] == len(run.tokens) - len(wrong)
    assert page.locator(".verdict").inner_text() == "✓ correct"


@pytest.mark.parametrize("exponent", [-3, -1, 0, 0.5, 2])
def test_the_share_that_a_kl_penalty_turns_follows_beta(look, report_file, run, exponent):
    page = look(report_file)
    page.locator("#run0-beta").fill(str(exponent))
    pairs = [
        (delta, record["advantage"])
        for record in run.tokens
        if record["kind"] == "training" and "delta" in record
        for delta in record["delta"]
        if delta is not None
    ]
    delta, advantage = torch.tensor(pairs, dtype=torch.float64).T
    share = kl_would_flip(delta, advantage, 10**exponent).double().mean().item()
    told = page.locator(".beta output").inner_text()
    assert told.endswith(f": {100 * share:.1f}% of {len(pairs)} recorded tokens turned")
    assert exponent < 1 or share > 0.2
    drawn = page.locator("#run0-one-way .chart.wide path.penalty").get_attribute("d")
    page.locator("#run0-beta").fill("1.5" if exponent != 1.5 else "1")
    assert page.locator("#run0-one-way .chart.wide path.penalty").get_attribute("d") != drawn


@pytest.mark.parametrize("system", ["light", "dark"])
def test_the_dark_comes_from_the_system_or_the_button(look, report_file, system):
    page = look(report_file, color_scheme=system)

    def colours():
        return page.evaluate(
            "[getComputedStyle(document.body).backgroundColor, "
            "getComputedStyle(document.querySelector('#run0-ratchet .chart.wide text')).fill]"
        )

    def brightness(colour):
        return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))

    paper, ink = map(brightness, colours())
    assert (paper < ink) == (system == "dark")
    page.locator("#theme").click()
    paper, ink = map(brightness, colours())
    assert (paper < ink) == (system == "light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(look, report_file, scheme):
    """WCAG's contrast ratio, at least 4.5, of ink, muted text, links and marks on the page's own ground."""
    page = look(report_file, color_scheme=scheme)

    def luminance(name):
        made = page.evaluate(
            "(name) => { const e = document.createElement('i'); e.style.color = `var(${name})`; "
            "document.body.append(e); const c = getComputedStyle(e).color; e.remove(); return c; }",
            name,
        )
        parts = [int(part) / 255 for part in made.removeprefix("rgb(").removesuffix(")").split(",")]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    paper = luminance("--paper")
    for name in ("--ink", "--muted", "--link", "--right", "--wrong", "--accelerated", "--locked"):
        light, dark = sorted((luminance(name), paper), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, name


def test_markup_that_a_model_wrote_is_text(look, report_file, run):
    page = look(report_file)
    everything(page)
    wanted = {
        "<script>window.hacked=1</script>",
        "</template>",
        "<!--",
        '<img src=x onerror="window.hacked=1">',
    }
    assert wanted <= {piece for record in run.tokens for piece in record["pieces"]} - set(CHARACTERS)
    seen = set()
    for _ in range(len(run.tokens)):
        seen |= set(page.locator(".tokens .t").all_inner_texts())
        page.locator("#next").click()
        if wanted <= seen:
            break
    assert wanted <= seen
    assert page.evaluate("window.hacked") is None
    assert page.locator("#responses img, #responses script, #answer b").count() == 0
    assert page.locator("script").count() == 2
    assert "<b>" in page.locator(".response h3").inner_text()


def test_the_keyboard_alone_is_enough(look, report_file, run):
    page = look(report_file)
    choose(page, stage="3", kind="training")
    page.locator("#as-table").focus()
    page.keyboard.press("Tab")
    at = "Number(document.activeElement.dataset.number)"
    assert page.evaluate(at) == 0
    page.keyboard.press("ArrowRight")
    assert page.evaluate(at) == 1
    assert details(page)["token"].startswith("2: ")
    page.keyboard.press("End")
    assert page.evaluate(at) == len(shown_record(page, run)["pieces"]) - 1
    page.keyboard.press("n")
    assert place(page)[0] == 2
    assert page.evaluate(at) == 0
    page.keyboard.press("2")
    assert page.locator("#colour input:checked").get_attribute("value") == "delta"
    page.keyboard.press("p")
    assert place(page)[0] == 1


def test_colour_is_not_the_only_sign(look, report_file):
    """Accelerated and locked tokens have lines of other kinds, and stronger ones thicker lines."""
    page = look(report_file)
    choose(page, stage="", kind="training")
    page.locator("#colour [value=delta]").check()
    signs = set()
    for _ in range(place(page)[1]):
        signs |= set(
            page.evaluate(
                "[...document.querySelectorAll('.tokens .t')].filter((t) => t.className !== 't ').map((t) => { "
                "const s = getComputedStyle(t); "
                "return `${t.classList[1]} ${s.borderBottomStyle} ${s.borderBottomWidth}`; })"
            )
        )
        page.locator("#next").click()
    kinds = {sign.split()[0]: sign.split()[1] for sign in signs}
    assert kinds == {"accelerated": "solid", "locked": "dotted"}
    assert len({sign.split()[2] for sign in signs}) == 3


def test_one_problem_stage_by_stage(look, report_file, run):
    page = look(report_file)
    everything(page)
    choose(page, kind="watched")
    problem = page.locator(".response h3").inner_text().partition(" · ")[0]
    page.locator("#side").click()
    told = page.locator(".response h3").all_inner_texts()
    assert told == [
        f"{problem} · stage 1, before its first step",
        f"{problem} · stage 1, after step 8",
        f"{problem} · stage 2, after step 12",
        f"{problem} · stage 3, after step 12",
    ]
    page.locator("#side").click()
    assert page.locator(".response").count() == 1


def test_tokens_as_a_table(look, report_file, run):
    page = look(report_file)
    record = shown_record(page, run)
    page.locator("#as-table").click()
    rows = page.locator(".response tbody tr")
    assert rows.count() == len(record["pieces"])
    assert f"{record['logp'][0]:.4f}" in rows.first.inner_text()


def test_without_javascript_all_but_the_viewer_is_there(look, report_file, run):
    page = look(report_file, java_script_enabled=False)
    assert page.locator("#answer tbody tr").count() == len(run.result["rows"])
    assert page.locator("#run0-ratchet .chart.wide svg").is_visible()
    assert "needs JavaScript" in page.locator("#tokens noscript").inner_text()
    assert not page.locator("#viewer").is_visible()


def test_every_figure_has_a_name_and_its_numbers(look, report_file):
    page = look(report_file)
    figures = page.locator("figure")
    assert figures.count() > 10
    for number in range(figures.count()):
        figure = figures.nth(number)
        assert len(figure.locator("svg").first.get_attribute("aria-label")) > 20
        assert figure.locator("details tbody tr").count() > 0
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_two_runs_side_by_side(look, both_file, run, another):
    page = look(both_file)
    assert page.locator("#answer h3").all_inner_texts() == ["one", "two"]
    assert page.locator("#answer figure").count() == 1
    for number, each in enumerate((run, another)):
        choose(page, run=str(number))
        everything(page)
        assert place(page) == (1, len(each.tokens))
