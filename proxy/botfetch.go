package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"go4.org/netipx"
)

const (
	botRefresh  = 24 * time.Hour   // the lists change a few times a week
	botRetry    = time.Hour        // after a failure
	botTimeout  = 60 * time.Second // for one list, all told
	botMaxBytes = 32 << 20         // the list of Azure has 5 MB
	botMaxNets  = 200_000          // ten times what Azure has
	// A list that holds a larger network than these is broken, or would shut out
	// half of the internet.
	botMinBits4, botMinBits6 = 8, 16
)

// botSource is where a list is published.
type botSource struct {
	urls []string
	read func([]byte) ([]string, error)
	// next, if there is one, finds the address of the list in what urls have.
	next func([]byte) (string, error)
}

var botSources = map[string]botSource{
	"openai": {urls: []string{
		"https://openai.com/gptbot.json", "https://openai.com/searchbot.json", "https://openai.com/chatgpt-user.json",
	}, read: readPrefixes},
	"aws":           {urls: []string{"https://ip-ranges.amazonaws.com/ip-ranges.json"}, read: readPrefixes},
	"gcloud":        {urls: []string{"https://www.gstatic.com/ipranges/cloud.json"}, read: readPrefixes},
	"githubcopilot": {urls: []string{"https://api.github.com/meta"}, read: readCopilot},
	"azurepubliccloud": {
		urls: []string{"https://www.microsoft.com/en-us/download/details.aspx?id=56519"}, next: findServiceTags, read: readServiceTags,
	},
}

// Run fetches the lists now and once a day, until ctx ends. A list that cannot be
// fetched stays as it is.
func (b *Bots) Run(ctx context.Context) error {
	sources := b.o.sources
	if sources == nil {
		sources = botSources
	}
	for {
		wait := botRefresh
		for _, name := range b.names {
			src, ok := sources[name]
			if !ok {
				continue // nobody publishes it
			}
			if err := b.refresh(ctx, name, src); err != nil && ctx.Err() == nil {
				b.o.Log.Warn("a list of networks of bots cannot be fetched; the one of before goes on", "list", name, "err", err)
				wait = botRetry
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// refresh fetches one list, all of it or nothing.
func (b *Bots) refresh(ctx context.Context, name string, src botSource) error {
	ctx, cancel := context.WithTimeout(ctx, botTimeout)
	defer cancel()
	var set netipx.IPSetBuilder
	count := 0
	for _, url := range src.urls {
		body, err := b.fetch(ctx, url)
		if err == nil && src.next != nil {
			if url, err = src.next(body); err == nil {
				body, err = b.fetch(ctx, url)
			}
		}
		if err != nil {
			return err
		}
		texts, err := src.read(body)
		if err != nil {
			return fmt.Errorf("%s: %w", url, err)
		}
		if count += len(texts); count > botMaxNets {
			return fmt.Errorf("%s: more than %d networks", url, botMaxNets)
		}
		if len(texts) == 0 {
			return fmt.Errorf("%s: no networks", url)
		}
		for _, text := range texts {
			p, err := sanePrefix(text)
			if err != nil {
				return fmt.Errorf("%s: %w", url, err)
			}
			set.AddPrefix(p)
		}
	}
	ranges, err := set.IPSet()
	if err != nil {
		return err
	}
	b.replace(botList{name, ranges})
	b.o.Log.Info("a list of networks of bots was fetched", "list", name, "networks", count)
	return nil
}

func sanePrefix(text string) (netip.Prefix, error) {
	p, ok := parseNetwork(text)
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		p, ok = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), true
	}
	switch {
	case !ok:
		return p, errors.New("something in it is not a network")
	case p.Addr().Is4() && p.Bits() < botMinBits4, p.Addr().Is6() && p.Bits() < botMinBits6:
		return p, fmt.Errorf("%s is too large a network", p)
	case hasNoCountry(p.Addr()):
		return p, fmt.Errorf("%s is not a public network", p)
	}
	return p, nil
}

// botClient follows few redirects, and none away from TLS.
var botClient = &http.Client{
	CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > 3 || req.URL.Scheme != "https" {
			return errors.New("redirected too often, or away from https")
		}
		return nil
	},
}

func (b *Bots) fetch(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "gatecontrol")
	client := b.o.client
	if client == nil {
		client = botClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, botMaxBytes+1))
	if err == nil && len(body) > botMaxBytes {
		err = fmt.Errorf("%s: more than %d MB", url, botMaxBytes>>20)
	}
	return body, err
}

// readPrefixes reads the form that OpenAI and Google use, and that of Amazon, which
// differs in the names of members.
func readPrefixes(b []byte) (list []string, err error) {
	var v struct {
		Prefixes []struct {
			V4     string `json:"ipv4Prefix"`
			V6     string `json:"ipv6Prefix"`
			Amazon string `json:"ip_prefix"`
		} `json:"prefixes"`
		Amazon6 []struct {
			Prefix string `json:"ipv6_prefix"`
		} `json:"ipv6_prefixes"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, err
	}
	for _, p := range v.Prefixes {
		for _, text := range []string{p.V4, p.V6, p.Amazon} {
			if text != "" {
				list = append(list, text)
			}
		}
	}
	for _, p := range v.Amazon6 {
		list = append(list, p.Prefix)
	}
	return list, nil
}

// readCopilot reads the part of GitHub's list that is about Copilot.
func readCopilot(b []byte) ([]string, error) {
	var v struct {
		Copilot []string `json:"copilot"`
	}
	err := json.Unmarshal(b, &v)
	return v.Copilot, err
}

// serviceTags is the address of Azure's list, whose name changes with each issue.
var serviceTags = regexp.MustCompile(`https://[A-Za-z0-9.:-]+/[A-Za-z0-9/._-]*ServiceTags_Public_[0-9]+\.json`)

func findServiceTags(b []byte) (string, error) {
	url := serviceTags.Find(b)
	if url == nil {
		return "", errors.New("the page names no list")
	}
	return string(url), nil
}

func readServiceTags(b []byte) ([]string, error) {
	var v struct {
		Values []struct {
			Name       string `json:"name"`
			Properties struct {
				Prefixes []string `json:"addressPrefixes"`
			} `json:"properties"`
		} `json:"values"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, err
	}
	for _, tag := range v.Values {
		if strings.EqualFold(tag.Name, "AzureCloud") {
			return tag.Properties.Prefixes, nil
		}
	}
	return nil, errors.New("there is no AzureCloud in it")
}
