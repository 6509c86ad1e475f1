package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"gatecontrol/app"
)

// healthTimeout is how long the health check waits; container runtimes give up
// after 30 seconds.
const healthTimeout = 5 * time.Second

type serveCmd struct {
	Demo bool `help:"Also start a demo peer that serves a page through the tunnel, and publish it."`
}

func (c *serveCmd) Run(ctx context.Context, o *app.Options) error {
	log := app.NewLogger(o.LogLevel)
	slog.SetDefault(log) // of libraries that print by themselves, such as quic-go about small buffers
	a, err := app.New(*o, log, buildVersion())
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }() // received below, on every path
	select {
	case err := <-done:
		return err
	case <-a.Ready():
	}
	fmt.Print(a.Greeting())
	if c.Demo {
		text, err := a.StartDemo(ctx)
		if err != nil {
			fmt.Printf("The demo peer could not be started: %v\n", err)
		} else {
			fmt.Print(text)
		}
	}
	return <-done
}

type versionCmd struct{}

func (versionCmd) Run() error {
	fmt.Println("gatecontrol", buildVersion())
	return nil
}

type healthcheckCmd struct{}

func (healthcheckCmd) Run(ctx context.Context, o *app.Options) error {
	host := o.Host
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	url := "http://" + net.JoinHostPort(host, strconv.Itoa(int(o.Port))) + "/health"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("not reachable: %w", err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("unhealthy (%s): %s", res.Status, body)
	}
	fmt.Println(string(body))
	return nil
}

type recoverCmd struct{}

func (recoverCmd) Run(ctx context.Context, o *app.Options) error {
	user, password, err := app.Recover(ctx, *o, app.NewLogger(o.LogLevel))
	if err != nil {
		return err
	}
	fmt.Printf("User:     %s\nPassword: %s\nThe password must be changed at the next login.\n", user, password.Reveal())
	return nil
}
