"""The journal's page in a browser: journal_page.py URL [PICTURE]

Expects the tree of journal_test.cpp: 'root', and 'child' whose first attempt failed with markup in its reason. With
PICTURE any journal will do; its page becomes that file, with the tree of the latest message.
"""

import sys

from browser import Browser

ROWS = "document.querySelectorAll('#rows tr')"
DRAWN = "document.querySelectorAll('#drawing .row')"


def expect(what, found, good):
    if not good:
        raise RuntimeError(f"expected {what}, found {found!r}")
    print("ok:", what)


def picture(browser, url, file):
    browser.open(url + "journal")
    browser.wait_for(f"{ROWS}.length > 0")
    browser.evaluate(f"{ROWS}[0].querySelector('a').click()")
    browser.wait_for(f"{DRAWN}.length > 3")
    browser.evaluate(f"[...{DRAWN}].find(row => row.querySelector('rect.retry, rect.dead')).dispatchEvent("
                     "new MouseEvent('click', { bubbles: true }))")
    browser.wait_for("document.getElementById('details').checkVisibility()")
    browser.screenshot(file)


def main(url):
    with Browser() as browser:
        browser.show_as(1240, 900)
        browser.call("Emulation.setTimezoneOverride", timezoneId="Asia/Kolkata")
        if len(sys.argv) > 2:
            return picture(browser, url, sys.argv[2])
        browser.open(url + "journal")
        browser.wait_for(f"{ROWS}.length == 3")
        print("ok: the latest attempts are there")
        browser.evaluate("document.getElementById('outcome').value = 'retry'; "
                         "document.getElementById('queue').value = 'orders'; "
                         "document.querySelector('#search button').click()")
        browser.wait_for(f"{ROWS}.length == 1")
        reason = browser.evaluate(f"{ROWS}[0].innerText")
        expect("markup shown as text", reason, "<img src=x onerror=alert(1)>" in reason)
        expect("no markup made", browser.evaluate("document.querySelectorAll('img').length"),
               browser.evaluate("document.querySelectorAll('img').length == 0"))

        browser.evaluate(f"{ROWS}[0].querySelector('a').click()")
        browser.wait_for(f"{DRAWN}.length == 2")
        labels = browser.evaluate(f"[...{DRAWN}].map(row => row.getAttribute('aria-label'))")
        expect("the tree in order", labels, labels == ["root, level 0, orders, ack", "child, level 1, orders, ack"])
        bars = browser.evaluate(f"[...{DRAWN}].map(row => [...row.querySelectorAll('rect.bar')].map("
                                "bar => bar.getAttribute('class')).join('|'))")
        expect("a bar for each attempt", bars, bars == ["bar wait|bar ack", "bar retry|bar ack"])
        places = browser.evaluate("[...document.querySelectorAll('#drawing rect.bar')].map(bar => "
                                  "Number(bar.getAttribute('x')))")
        expect("bars in the order of time", places, places == sorted(places))

        browser.evaluate(f"{DRAWN}[0].focus(); {DRAWN}[0].dispatchEvent("
                         "new KeyboardEvent('keydown', { key: 'ArrowDown', bubbles: true }))")
        browser.evaluate("document.activeElement.dispatchEvent("
                         "new KeyboardEvent('keydown', { key: 'Enter', bubbles: true }))")
        details = browser.wait_for("document.getElementById('details').innerText")
        expect("the keyboard chooses", details, details.startswith("child") and "<img src=x" in details)

        # The latest is of 11:06:40.007, wherever the browser is.
        for begin, count in (("2026-11-18T11:06", 3), ("2026-11-18T11:06:41", 0)):
            browser.open(url + "journal")
            browser.wait_for(f"{ROWS}.length == 3")
            browser.evaluate(f"document.getElementById('from').value = '{begin}'; "
                             "document.querySelector('#search button').click()")
            browser.wait_for("document.getElementById('foundTitle').innerText.startsWith("
                             f"'{count or 'Nothing'}')")
        print("ok: times are UTC")
        kinds = browser.evaluate("['ack', 'crash', 'dead', 'double', 'skipped', 'handed_back', 'lost', 'constructor', '']"
                                 ".map(outcome => kind({ outcome })).concat(kind({ outcome: 'crash', code: 'crashes' }))"
                                 ".join(' ')")
        expect("red for what is given up", kinds, kinds == "ack retry dead none none none none none open dead")
        offered = browser.evaluate("[...document.getElementById('outcome').options].map(each => each.value)")
        expect("every outcome to choose", offered, {"double", "skipped", "handed_back", "lost"} <= set(offered))
        late = browser.evaluate("clock(9e18)")
        expect("a time that is none", late, late.endswith("µs"))

        browser.open(url + "journal#id=child")
        browser.wait_for(f"{DRAWN}.length == 2")
        print("ok: an address leads to a tree")
        browser.evaluate("location.hash = '#id=nobody'")
        problem = browser.wait_for("document.getElementById('problem').innerText")
        expect("an unknown id in words", problem, problem == "the journal has nothing of 'nobody'")

        grounds = []
        for dark in (False, True):
            for width in (1240, 375):
                browser.show_as(width, 800, dark)
                expect(f"no sideways scrolling at {width}", browser.evaluate("document.documentElement.scrollWidth"),
                       browser.evaluate("document.documentElement.scrollWidth <= innerWidth"))
            grounds.append(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
        expect("dark and light", grounds, grounds[0] != grounds[1])
        problems = [problem for problem in browser.problems if "404" not in str(problem)]
        expect("no complaint in the console", problems, not problems)
        strangers = [address for address in browser.requests if not address.startswith((url, "data:"))]
        expect("nothing from elsewhere", strangers, browser.requests and not strangers)


main(sys.argv[1])
