package api

import (
	"context"
	"net/http"
)

type backupQuery struct {
	Format string `query:"format" doc:"download: as a file, which it is in any case"`
}

func (s *Server) getBackup(ctx context.Context, _ *request, _ *backupQuery) (responder, error) {
	archive, err := s.Backup.Export(ctx)
	if err != nil {
		return nil, err
	}
	a := jsonAnswer(http.StatusOK, archive)
	return file{typeJSON, "gatecontrol-backup-" + s.now().UTC().Format("2006-01-02") + ".json", a.body}, nil
}
