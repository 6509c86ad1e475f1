package app_test

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"gatecontrol/lab"
)

// TestFirstRunInABrowser does what a new user does: sign in with the password
// that was printed, choose another, look at what there is, and open a service
// that lives on a peer.
func TestFirstRunInABrowser(t *testing.T) {
	o := lab.Options(t)
	o.AdminPassword = ""
	s := lab.Run(t, o)
	_, rest, _ := strings.Cut(s.Greeting(), "Password")
	printed := strings.Fields(rest)[0]

	base := "http://" + s.Addrs().Admin
	browser := s.Browser(t)
	do := func(what string, steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(browser, steps...); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	text := func(selector string) string {
		t.Helper()
		text, err := chromedp.Run(browser, chromedp.Text(selector))
		if err != nil {
			t.Fatalf("%s: %v", selector, err)
		}
		return text
	}
	do("sign in",
		chromedp.Navigate(base+"/"),
		chromedp.SendKeys("#username", lab.User),
		chromedp.SendKeys("#password", printed),
		chromedp.Submit("#password"),
		chromedp.WaitVisible("#next"))
	if title := text("h1"); title != "Choose your own password" {
		t.Fatalf("after the first sign-in: %q", title)
	}
	do("choose a password",
		chromedp.SendKeys("#current", printed),
		chromedp.SendKeys("#next", lab.Password),
		chromedp.SendKeys("#again", lab.Password),
		chromedp.Submit("#again"),
		chromedp.WaitVisible("#peers"))
	if title := text("h1"); title != "Overview" {
		t.Fatalf("after the new password: %q", title)
	}

	s.Admin.Login(t, lab.User, lab.Password)
	s.API = s.Admin.WithToken(s.Admin.MakeToken(t, "full-access"))
	id, p := s.Peer(t, "nas")
	publish(t, s, id, p, "nas.example.test", "the page of the peer")
	do("the overview", chromedp.Navigate(base+"/dashboard"))
	for _, want := range []string{"nas.example.test", "serves", "10.8.0.2"} {
		if shown := text("main"); !strings.Contains(shown, want) {
			t.Errorf("the overview does not show %q:\n%s", want, shown)
		}
	}
	browser = s.Browser(t, "nas.example.test")
	do("the service on the peer", chromedp.Navigate("https://nas.example.test/"))
	if shown := text("body"); shown != "the page of the peer" {
		t.Errorf("through the tunnel: %q", shown)
	}
}
