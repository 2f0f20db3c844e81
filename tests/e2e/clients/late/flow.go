// As flow.py, a goroutine for each client. Usage: flow h1|h2 CLIENTS PREFIX TLS-PORT CLEARTEXT-PORT CA
package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

type entry struct {
	Path      string  `json:"path"`
	Began     float64 `json:"began"`
	Ended     float64 `json:"ended"`
	LocalPort int     `json:"local_port"`
	Method    string  `json:"method"`
	Sent      int     `json:"sent"`
	Status    int     `json:"status"`
	Size      int64   `json:"size"`
}

var stopping atomic.Bool

func now() float64 { return float64(time.Now().UnixNano()) / 1e9 }

func one(client *http.Client, base, path string, i int) entry {
	done := entry{Path: path, Method: "GET"}
	var body io.Reader
	if i%3 == 0 {
		done.Method, done.Sent = "POST", 100+i
		body = strings.NewReader(strings.Repeat("b", done.Sent))
	}
	request, _ := http.NewRequest(done.Method, base+path, body)
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		done.LocalPort = info.Conn.LocalAddr().(*net.TCPAddr).Port
	}}
	done.Began = now()
	answer, err := client.Do(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
	if err != nil {
		panic(err)
	}
	done.Size, _ = io.Copy(io.Discard, answer.Body)
	answer.Body.Close()
	done.Status = answer.StatusCode
	done.Ended = now()
	return done
}

func main() {
	mode, prefix, base := os.Args[1], os.Args[3], "https://localhost:"+os.Args[4]
	count, _ := strconv.Atoi(os.Args[2])
	pem, _ := os.ReadFile(os.Args[6])
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	var clients, flowing sync.WaitGroup
	logs := make([][]entry, count)
	for client := 0; client < count; client++ {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ForceAttemptHTTP2: mode == "h2"}
		if mode == "h1" {
			transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
		}
		clients.Add(1)
		flowing.Add(1)
		go func(client int, kept *http.Client) {
			defer clients.Done()
			for i := 0; !stopping.Load() || i < 2; i++ {
				path := fmt.Sprintf("%s/tls/%d/%d", prefix, client, i)
				logs[client] = append(logs[client], one(kept, base, path, i))
				if i == 1 {
					flowing.Done()
				}
				time.Sleep(20 * time.Millisecond)
			}
			kept.CloseIdleConnections()
		}(client, &http.Client{Transport: transport})
	}
	flowing.Wait()
	fmt.Println("flowing")
	io.Copy(io.Discard, os.Stdin)
	stopping.Store(true)
	clients.Wait()
	out := json.NewEncoder(os.Stdout)
	for _, log := range logs {
		for _, done := range log {
			out.Encode(done)
		}
	}
}
