"""The status page in a browser: what a person would look for, and what they must never see.

    monitor_page.py URL DAEMON_PID     expects a group 'busy' under load, whose last failure has markup
                                       in it, and a group 'broken' that is refused
"""

import os
import signal
import sys

from browser import Browser

CARD = "[...document.querySelectorAll('#groups .card')].find(card => card.querySelector('h2').innerText == '{}')"
# Of every text that is shown, by the rules of WCAG: the lowest contrast, and where.
CONTRAST = """(() => {
  const parse = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => parse(colour).slice(0, 3).map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = node => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (parse(colour)[3] !== 0) return colour;
    }
  };
  let lowest = [99, ''];
  for (const node of document.querySelectorAll('h1, h2, span, div.soft, dt, dd, p, a, summary, th, td')) {
    if (!node.innerText || !node.checkVisibility()) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(ground(node))];
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (contrast < lowest[0]) lowest = [contrast, node.outerHTML];
  }
  return lowest;
})()"""


def expect(what, found, good):
    if not good:
        raise RuntimeError(f"expected {what}, found {found!r}")
    print("ok:", what)


def main(url, daemon):
    with Browser() as browser:
        browser.show_as(1240, 900)
        browser.open(url)
        browser.wait_for("document.getElementById('state').innerText == 'running'")
        busy, broken = CARD.format("busy"), CARD.format("broken")
        browser.wait_for(f"!!({busy} && {broken})")

        number = "Number(document.querySelector('#total dd:nth-of-type(1)') && " \
            "[...document.querySelectorAll('#total dt')].find(t => t.innerText == 'in/s').nextSibling.innerText)"
        browser.wait_for(number + " > 0")
        print("ok: numbers move under load")
        line = busy + ".querySelector('polyline.in').points"
        before = browser.wait_for(line + ".length")
        browser.wait_for(f"{line}.length > {before} + 1")
        browser.wait_for(f"[...{line}].pop().y < 49")
        print("ok: the chart grows")

        expect("the refused group in words", browser.evaluate(f"{broken}.querySelector('.pill').innerText"),
               browser.evaluate(f"{broken}.querySelector('.pill').innerText == 'refused'"))
        red, green, blue = browser.evaluate(
            f"getComputedStyle({broken}.querySelector('.pill')).color.match(/\\d+/g).map(Number)")[:3]
        expect("it in red", (red, green, blue), red > 2 * green and red > 2 * blue)
        reason = browser.evaluate(f"{broken}.querySelector('.why').innerText")
        expect("its reason", reason, "expected the symbol lope_plugin_v1" in reason)
        attention = browser.evaluate("document.getElementById('attention').innerText")
        expect("it named at the top", attention, attention == "Not consuming: broken (refused)")

        browser.wait_for(f"{busy}.innerText.includes('<img src=x onerror=')")
        expect("markup shown as text", browser.evaluate("document.querySelectorAll('img, b').length"),
               browser.evaluate("document.querySelectorAll('img, b').length == 0"))
        browser.evaluate(f"{busy}.querySelector('details').open = true")
        browser.wait_for(f"{busy}.querySelectorAll('tbody tr').length == 2")
        print("ok: workers unfold")

        grounds = []
        for dark in (False, True):
            for width in (1240, 375):
                browser.show_as(width, 800, dark)
                expect(f"no sideways scrolling at {width}", browser.evaluate("document.documentElement.scrollWidth"),
                       browser.evaluate("document.documentElement.scrollWidth <= innerWidth"))
            contrast = browser.evaluate(CONTRAST)
            expect(f"contrast in {'dark' if dark else 'light'}", contrast, 4.5 <= contrast[0] < 99)
            grounds.append(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
        expect("dark and light", grounds, grounds[0] != grounds[1])
        expect("no complaint in the console", browser.problems, not browser.problems)
        strangers = [address for address in browser.requests if not address.startswith((url, "data:"))]
        expect("nothing from elsewhere", strangers, browser.requests and not strangers)

        os.kill(daemon, signal.SIGSTOP)
        try:
            browser.wait_for("document.getElementById('silent').checkVisibility()")
            silence = browser.evaluate("document.getElementById('silent').innerText")
            expect("silence in words", silence, silence.startswith(
                "The daemon does not answer: the daemon has not answered within 2000 ms."))
        finally:
            os.kill(daemon, signal.SIGCONT)
        browser.wait_for("!document.getElementById('silent').checkVisibility()")
        print("ok: it recovers")


main(sys.argv[1], int(sys.argv[2]))
