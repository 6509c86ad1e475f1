package app

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"gatecontrol/control/accounts"
	"gatecontrol/model"
)

// Recover gives the administrator a new password: through the running server,
// or on the store when none runs.
func Recover(ctx context.Context, o Options, log *slog.Logger) (user string, password model.Secret, err error) {
	s, err := o.check()
	if err != nil {
		return "", "", err
	}
	conn, err := net.Dial("unix", filepath.Join(s.DataDir, socketFile))
	if err == nil {
		return recoverRunning(ctx, conn)
	}
	db, err := openStore(s, log)
	if err != nil {
		return "", "", err
	}
	defer db.Close()
	service, err := accounts.New(accounts.Options{DB: db, Log: log, Now: time.Now, SessionMaxAge: s.SessionMaxAge.Duration()})
	if err != nil {
		return "", "", err
	}
	password, err = service.ResetAdmin(ctx, s.AdminUser)
	return s.AdminUser, password, err
}

func recoverRunning(ctx context.Context, conn net.Conn) (user string, password model.Secret, err error) {
	client := http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }},
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://localhost/recover", nil)
	if err != nil {
		return "", "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return "", "", err
	}
	defer res.Body.Close()
	var answer struct{ Username, Password, Error string }
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return "", "", fmt.Errorf("the running server answered %s: %w", res.Status, err)
	}
	if res.StatusCode != http.StatusOK {
		return "", "", fmt.Errorf("the running server answered %s: %s", res.Status, answer.Error)
	}
	return answer.Username, model.Secret(answer.Password), nil
}
