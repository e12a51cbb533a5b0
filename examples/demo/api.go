package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/boxlite-mcp/boxlite-mcp/internal/testcert"
)

// apiHost is the name that the demo's API has, and its certificate is for.
const apiHost = "api.demo.test"

// An api is an HTTPS API with a key, as there are many: it answers who has the
// key, and nobody else.
type api struct {
	key    string
	addr   string // on loopback
	caFile string // PEM of the authority that its certificate is of
	server *http.Server
}

// serveAPI starts the API. Its authority's certificate lies in dir.
func serveAPI(ctx context.Context, dir string) (*api, error) {
	a := &api{caFile: filepath.Join(dir, "ca.pem"), key: "sk-demo-" + rand.Text()}
	cert, ca, err := testcert.New(apiHost)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(a.caFile, ca, 0o600); err != nil {
		return nil, err
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	a.addr = l.Addr().String()
	a.server = &http.Server{
		Handler: http.HandlerFunc(a.answer), ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
	}
	go func() { _ = a.server.ServeTLS(l, "", "") }() // ends with Close
	return a, nil
}

// answer repeats the key in its answer, as careless APIs do.
func (a *api) answer(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+a.key {
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	fmt.Fprintf(w, "welcome, holder of %s\n", a.key)
}
