package pages

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"tandem/scripts/devstack"
)

// tools gives the paths of a browser and of axe-core, or skips the test by name where there are none.
func tools(t *testing.T) (browser, axe string) {
	t.Helper()
	devstack.AtLength(t)
	out, err := exec.Command("../../../scripts/devstack/browser.sh").CombinedOutput()
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil || len(lines) != 2 {
		t.Skipf("no browser: %v: %s", err, out)
	}
	script, err := os.ReadFile(lines[1])
	if err != nil {
		t.Fatal(err)
	}
	return lines[0], string(script)
}

// tab is a browser's tab, and what its console said.
type tab struct {
	t    *testing.T
	ctx  context.Context
	base string
	axe  string

	mu      sync.Mutex
	console []string
}

func open(t *testing.T, h http.Handler) *tab {
	t.Helper()
	browser, axe := tools(t)
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	alloc, stop := chromedp.NewExecAllocator(context.Background(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(browser), chromedp.NoSandbox, chromedp.Flag("lang", "en-GB"))...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 10*time.Minute)
	t.Cleanup(cancel)
	b := &tab{t: t, ctx: ctx, base: srv.URL, axe: axe}
	chromedp.ListenTarget(ctx, func(ev any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch ev := ev.(type) {
		case *runtime.EventExceptionThrown:
			b.console = append(b.console, ev.ExceptionDetails.Error())
		case *runtime.EventConsoleAPICalled:
			if ev.Type == runtime.APITypeError || ev.Type == runtime.APITypeWarning {
				b.console = append(b.console, fmt.Sprint(ev.Type, " ", string(ev.Args[0].Value)))
			}
		case *log.EventEntryAdded:
			if ev.Entry.Level == log.LevelError {
				b.console = append(b.console, ev.Entry.Text+" "+ev.Entry.URL)
			}
		}
	})
	b.run(log.Enable())
	return b
}

func (b *tab) run(actions ...chromedp.Action) {
	b.t.Helper()
	if err := chromedp.Run(b.ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// silent fails on what the console said since the last call.
func (b *tab) silent(where string) {
	b.t.Helper()
	for _, line := range b.said() {
		b.t.Errorf("%s: console: %s", where, line)
	}
}

func (b *tab) said() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	said := b.console
	b.console = nil
	return said
}

// until waits for a JavaScript expression to be true.
func (b *tab) until(expr string) {
	b.t.Helper()
	// Not chromedp.Poll: it makes functions of text, which the pages' policy forbids.
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(30 * time.Millisecond) {
		var ok bool
		if err := chromedp.Run(b.ctx, chromedp.Evaluate("!!("+expr+")", &ok)); err != nil {
			b.t.Fatalf("%s: %v", expr, err)
		}
		if ok {
			return
		}
	}
	var body string
	b.run(chromedp.Evaluate("document.body.innerText.slice(0, 600)", &body))
	b.t.Fatalf("never came true: %s\n%s\n%v", expr, body, b.said())
}

const loaded = `!document.querySelector('.loading') && document.querySelector('main h1') !== null && !document.querySelector('main[aria-busy]')`

func (b *tab) load(path string) {
	b.t.Helper()
	b.run(chromedp.Navigate(b.base + path))
	b.until(loaded)
}

// accessible fails on what axe-core finds.
func (b *tab) accessible(where string) {
	b.t.Helper()
	var out string
	b.run(chromedp.Evaluate(b.axe+";0", nil), chromedp.Evaluate(`axe.run(document, {resultTypes: ['violations']}).then((r) => JSON.stringify(r.violations.map((v) => [v.id, v.help, v.nodes.slice(0, 3).map((n) => n.html.slice(0, 200) + ' ' + (n.failureSummary || ''))])))`,
		&out, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
	var violations [][]any
	if err := json.Unmarshal([]byte(out), &violations); err != nil {
		b.t.Fatal(err)
	}
	for _, v := range violations {
		b.t.Errorf("%s: axe-core: %v", where, v)
	}
}

type page struct{ name, path string }

// shown are the pages, by the name of their picture.
var shown = []page{
	{"experiments", "/shop"},
	{"experiment", "/shop/experiment/checkout_button"},
	{"experiment-drill", "/shop/experiment/checkout_button?drill=conversion_rate&range=24h"},
	{"experiment-srm", "/shop/experiment/new_search?range=1h"},
	{"experiment-planned", "/shop/experiment/gift_wrap"},
	{"operations", "/shop/operations"},
	{"explain", "/shop/explain?metric=order.beta&experiment=checkout_button&variation=red&minute=2026-02-02T02:00:00Z"},
	{"not-found", "/shop/experiment/nothing"},
	{"no-page", "/shop/nothing"},
}

func TestBrowser(t *testing.T) {
	m := &made{now: madeNow}
	b := open(t, handler(t, m, time.Second))

	t.Run("pages", func(t *testing.T) {
		for _, dark := range []string{"light", "dark"} {
			for _, width := range []int64{1280, 390} {
				b.run(chromedp.EmulateViewport(width, 900), emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: dark}}))
				for _, p := range shown {
					where := fmt.Sprintf("%s, %s, %d px", p.name, dark, width)
					b.load(p.path)
					b.accessible(where)
					var over int
					b.run(chromedp.Evaluate(`document.documentElement.scrollWidth - innerWidth`, &over))
					if over > 0 {
						t.Errorf("%s: %d px wider than the screen", where, over)
					}
					if p.name == "not-found" || p.name == "no-page" {
						b.said() // the browser tells of the answer 404
					}
					b.silent(where)
				}
			}
		}
		b.run(chromedp.EmulateViewport(1280, 900))
	})

	t.Run("filter, drill down, share", func(t *testing.T) {
		b.load("/shop/experiment/checkout_button")
		const n = `document.querySelector('#traffic ~ .scroll tbody td.n').textContent`
		var all, some, url string
		b.run(chromedp.Evaluate(n, &all), chromedp.Evaluate(`(() => { const s = document.getElementById('tag-device'); s.value = 'mobile'; s.dispatchEvent(new Event('change')); })()`, nil))
		b.until(`location.search.includes('tag.device=mobile')`)
		b.until(fmt.Sprintf("%s !== %q", n, all))
		b.run(chromedp.Click(`//table[contains(@class,"metrics")]//a[text()="Conversion rate"]`, chromedp.BySearch))
		b.until(`document.querySelector('.drill .plot canvas') !== null`)
		b.run(chromedp.Location(&url), chromedp.Evaluate(n, &some))
		b.run(chromedp.Navigate("about:blank"))
		b.load(strings.TrimPrefix(url, b.base))
		b.until(fmt.Sprintf("%s === %q && document.querySelector('.drill h2').textContent.startsWith('Conversion rate') && document.getElementById('tag-device').value === 'mobile'", n, some))
		// From each variation a way to its numbers, of the tags that are chosen.
		var links []string
		b.run(chromedp.Evaluate(`[...document.querySelectorAll('.from a')].map((a) => a.href)`, &links))
		for i, link := range links {
			u, err := neturl.Parse(link)
			if err != nil {
				t.Fatal(err)
			}
			q := u.Query()
			want := []string{"control", "red", "green"}[i/2]
			at, err := time.Parse(time.RFC3339, q.Get("minute"))
			if q.Get("variation") != want || q.Get("tag.device") != "mobile" || q.Get("metric") == "" || err != nil || at.Unix() != (madeNow-12)*60 {
				t.Errorf("link %d: %s", i, link)
			}
		}
		if len(links) != 6 {
			t.Errorf("%d links", len(links))
		}
		// What is asked for there next is of the same tags, until they are emptied.
		b.load(strings.TrimPrefix(links[0], b.base))
		b.run(chromedp.Evaluate(`document.getElementById('x-variation').value = 'green'`, nil), chromedp.Click(`form.explain button`))
		b.until(`location.search.includes('variation=green') && location.search.includes('tag.device=mobile') && ` + loaded)
		b.run(chromedp.Evaluate(`document.getElementById('x-tag.device').value = ''`, nil), chromedp.Click(`form.explain button`))
		b.until(`!location.search.includes('tag.device') && ` + loaded)
		b.silent("drill")
	})

	t.Run("what is cut says so", func(t *testing.T) {
		b.load("/shop/experiment/checkout_button")
		b.until(`[...document.querySelectorAll('.chart summary')].every((s) => s.textContent === 'Table of the last 60')`)
		var text string
		b.run(chromedp.Evaluate(`import('/static/experiments.js').then((m) => {
			const tests = [1, 2, 3, 4, 5, 6].map((i) => ({formula: 'f' + i, variation: 'v', state: 'signal', failing: false, diff: 1, relative: true}));
			const x = {name: 'x', status: 'running', variations: [], spark: [0], sessions: 1, splitP: 1, why: [], tests};
			return m.render({experiments: [x], closed: 1, covered: 1, trouble: []}, {tenant: 'shop'}).map((e) => e?.textContent).join(' ');
		})`, &text, func(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }))
		if !strings.Contains(text, "f4, v: ") || strings.Contains(text, "f5") || !strings.Contains(text, "and 2 more") {
			t.Errorf("of six signals it says %s", text)
		}
	})

	t.Run("live update", func(t *testing.T) {
		b.load("/shop/experiment/checkout_button?range=1h")
		b.until(`document.querySelector('[data-keep="sessions"] canvas') !== null`)
		b.run(chromedp.Evaluate(`window.canvas = document.querySelector('[data-keep="sessions"] canvas'); document.querySelector('#m-x, .config summary').focus(); document.querySelector('.config').open = true; scrollTo(0, 300); document.querySelectorAll('.chart').length`, nil))
		m.extra.Store(true)
		b.until(`document.querySelector('[data-keep="m-aov"] canvas') !== null`)
		var same bool
		b.run(chromedp.Evaluate(`window.canvas === document.querySelector('[data-keep="sessions"] canvas') && document.querySelector('.config').open && document.activeElement.tagName === 'SUMMARY' && scrollY === 300`, &same))
		if !same {
			t.Error("an update drew the page anew: the chart, what was open, the focus or the place is lost")
		}
		m.extra.Store(false)
		b.silent("update")
	})

	t.Run("keyboard", func(t *testing.T) {
		b.load("/shop")
		b.run(chromedp.Evaluate(`document.querySelector('.list a').focus()`, nil), chromedp.KeyEvent("\r"))
		b.until(`location.pathname.startsWith('/shop/experiment/') && ` + loaded)
		var focus string
		b.run(chromedp.Evaluate(`document.activeElement.id`, &focus))
		if focus != "main" {
			t.Errorf("after a link the focus is on %q", focus)
		}
	})

	t.Run("promote", func(t *testing.T) {
		b.load("/shop/operations")
		b.run(chromedp.Click(`//button[text()="Promote …"]`, chromedp.BySearch))
		b.until(`document.querySelector('dialog[open]') !== null`)
		b.accessible("dialog")
		if m.promoted.Load() != nil {
			t.Fatal("promoted without confirmation")
		}
		b.run(chromedp.Click(`dialog button.danger`))
		b.until(`!document.querySelector('dialog') && document.querySelector('[data-key="stream.dc2"]').textContent.includes('active')`)
		b.silent("promote")
	})

	t.Run("errors", func(t *testing.T) {
		b.load("/shop")
		m.broken.Store(true)
		b.until(`document.querySelector('[role="alert"]')?.textContent.includes('log says more')`)
		b.accessible("error")
		m.broken.Store(false)
		b.run(chromedp.Click(`//button[text()="Try again"]`, chromedp.BySearch))
		b.until(`document.querySelector('table.list') !== null`)
		b.said()
	})

	t.Run("empty", func(t *testing.T) {
		e := open(t, handler(t, &made{now: madeNow, empty: true}, time.Second))
		e.load("/shop")
		e.accessible("empty")
		e.until(`document.body.innerText.includes('No experiment is configured')`)
		e.silent("empty")
	})

	t.Run("sign in", func(t *testing.T) {
		inner := handler(t, m, time.Minute)
		e := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch token := r.Header.Get("Authorization"); {
			case !Frame(r.URL.Path) && token == "Bearer foreign":
				w.WriteHeader(http.StatusNotFound)
				return
			case !Frame(r.URL.Path) && token != "Bearer right":
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			inner.ServeHTTP(w, r)
		}))
		e.run(chromedp.Navigate(e.base + "/shop"))
		for _, token := range []string{"wrong", "foreign", "right"} {
			if token == "right" { // a token of another tenant is let in, and finds nothing
				e.until(`document.querySelector('.fatal') !== null`)
				e.accessible("foreign token")
				e.run(chromedp.Click(`//button[text()="Sign in with another token"]`, chromedp.BySearch))
			}
			e.until(`document.getElementById('token') !== null && document.activeElement.id === 'token' && document.getElementById('token').value === ''`)
			e.accessible("sign in")
			e.run(chromedp.SendKeys("#token", token+"\r"))
		}
		e.until(`document.querySelector('table.list') !== null`)
	})
}

// TestScreenshots writes a picture of each page into the folder that TANDEM_SCREENSHOTS names; scripts/screenshots calls it. With
// TANDEM_PAGES, the URL of a service with the made-up shop, they are of its pages.
func TestScreenshots(t *testing.T) {
	folder, url := os.Getenv("TANDEM_SCREENSHOTS"), os.Getenv("TANDEM_PAGES")
	if folder == "" {
		t.Skip("no pictures are asked for: run scripts/screenshots")
	}
	m := &made{now: madeNow}
	m.extra.Store(true)
	b := open(t, handler(t, m, time.Minute))
	list, prefix := shown, ""
	if url != "" {
		b.base, prefix = url, "shop-"
		list = []page{{"experiments", "/shop"}, {"experiment", "/shop/experiment/checkout_button?drill=conversion"}, {"experiment-srm", "/shop/experiment/new_search?range=1h"}, {"operations", "/shop/operations"}}
	}
	for _, mode := range []string{"light", "dark"} {
		for _, width := range []int64{1280, 390} {
			b.run(chromedp.EmulateViewport(width, 900), emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: mode}}))
			for _, p := range list {
				b.load(p.path)
				var png []byte
				b.run(chromedp.Sleep(150*time.Millisecond), chromedp.FullScreenshot(&png, 100))
				name := fmt.Sprintf("%s%s-%s-%d.png", prefix, p.name, mode, width)
				if err := os.WriteFile(filepath.Join(folder, name), png, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}
