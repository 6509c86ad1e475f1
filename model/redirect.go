package model

import (
	"fmt"
	"net/url"
	"strings"
)

// maxURL is what browsers and servers agree on, by and large.
const maxURL = 2048

// ParseRedirect reads the absolute http or https URL that a browser is sent to.
// The error is for people.
func ParseRedirect(text string) (*url.URL, error) {
	text = strings.TrimSpace(text)
	u, err := url.Parse(text)
	if err != nil || len(text) > maxURL || strings.ContainsFunc(text, notURL) ||
		!strings.HasPrefix(text, "http://") && !strings.HasPrefix(text, "https://") || u.User != nil {
		return nil, fmt.Errorf("must be an http or https URL")
	}
	if _, ok := NormalizeHost(u.Host); !ok {
		return nil, fmt.Errorf("must be an http or https URL with a host name")
	}
	return u, nil
}

// notURL reports whether c has to be escaped in a URL, or makes browsers read
// another one than we do.
func notURL(c rune) bool { return c <= ' ' || c >= 0x7f || c == '\\' }

// LeadsTo reports whether the URL text is one of host. One that cannot be read
// may be.
func LeadsTo(text, host string) bool {
	u, err := ParseRedirect(text)
	if err != nil {
		return true
	}
	to, ok := NormalizeHost(u.Host)
	return !ok || to == host
}
