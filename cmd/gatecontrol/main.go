// Command gatecontrol is the gateway, and the few commands that look after it.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	_ "time/tzdata" // TZ says in what zone access windows are, also where the system has no such files

	"github.com/alecthomas/kong"

	"gatecontrol/app"
)

// version is set when a release is built.
var version = ""

// cli is the command line. Every option is also a variable (app.Options).
type cli struct {
	app.Options
	Serve       serveCmd       `cmd:"" default:"withargs" help:"Run the gateway."`
	Healthcheck healthcheckCmd `cmd:"" help:"Ask the running gateway whether it is healthy; exit status 1 if not."`
	Recover     recoverCmd     `cmd:"" help:"Give the administrator a new password and print it."`
	Version     versionCmd     `cmd:"" help:"Print the version."`
}

func main() {
	if err := readEnvironment(os.Environ()); err != nil {
		fail(err)
	}
	var c cli
	parser, err := kong.New(&c,
		kong.Name("gatecontrol"),
		kong.Description("A private gateway: WireGuard, an HTTP proxy, a TCP/UDP proxy and DNS in one process."),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		panic(err) // the struct above is wrong
	}
	cmd, err := parser.Parse(os.Args[1:])
	if err != nil {
		fail(err)
	}
	ctx, stop := signals()
	defer stop()
	cmd.BindTo(ctx, (*context.Context)(nil))
	if err := cmd.Run(&c.Options); err != nil {
		fail(err)
	}
}

// fail prints one line and ends with status 1, which asks a supervisor for
// another try.
func fail(err error) {
	fmt.Fprintln(os.Stderr, "gatecontrol:", strings.ReplaceAll(err.Error(), "\n", "; "))
	os.Exit(1)
}

// signals returns a context that the first SIGINT or SIGTERM ends; a second one
// ends the process at once.
func signals() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	c := make(chan os.Signal, 2)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	go func() { // lives as long as the process
		<-c
		cancel()
		<-c
		os.Exit(130)
	}()
	return ctx, cancel
}

// readEnvironment lets GC_X_FILE name a file with the value of GC_X, and takes
// an empty variable as one that is not set.
func readEnvironment(environ []string) error {
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, "GC_") {
			continue
		}
		if value == "" {
			if err := os.Unsetenv(name); err != nil {
				return err
			}
			continue
		}
		target, isFile := strings.CutSuffix(name, "_FILE")
		if !isFile || target == "GC_DNS_HOSTS" {
			continue // GC_DNS_HOSTS_FILE is a setting of GateControl's own
		}
		raw, err := os.ReadFile(value)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if os.Getenv(target) == "" {
			if err := os.Setenv(target, strings.TrimRight(string(raw), "\r\n")); err != nil {
				return err
			}
		}
	}
	return nil
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}
