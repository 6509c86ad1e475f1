package app_test

import (
	"encoding/json"
	"os"
	"testing"

	"go.uber.org/goleak"

	"gatecontrol/lab"
	"gatecontrol/lab/acme"
)

func TestMain(m *testing.M) {
	code := m.Run()
	lab.RemoveBinary()
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreAnyFunction(acme.VALoop)); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			code = 1
		}
	}
	os.Exit(code)
}

func decode(t *testing.T, raw string, out any) {
	t.Helper()
	if err := json.Unmarshal([]byte(raw), out); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
}
