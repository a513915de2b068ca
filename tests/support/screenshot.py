"""The status page as a picture, once its charts show something: screenshot.py URL FILE"""

import sys

from browser import Browser

with Browser() as browser:
    browser.show_as(1240, 800)
    browser.open(sys.argv[1])
    browser.wait_for("document.querySelector('#total polyline.out').points.length >= 60", 90)
    browser.evaluate("document.querySelector('details').open = true")
    browser.wait_for("document.querySelectorAll('tbody tr').length == 2")
    browser.screenshot(sys.argv[2])
