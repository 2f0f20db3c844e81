// Usage: transfer h1|h2 CA HOST PORT [PUT:/path=FILE | GET:/path]...     as transfer.py
package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

func transfer(client *http.Client, origin, request string) error {
	method, target, _ := strings.Cut(request, ":")
	path, file, sends := strings.Cut(target, "=")
	content, err := []byte(nil), error(nil)
	if sends {
		if content, err = os.ReadFile(file); err != nil {
			return err
		}
	}
	made, err := http.NewRequest(method, origin+path, bytes.NewReader(content))
	if err != nil {
		return err
	}
	answer, err := client.Do(made)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	hash := sha256.New()
	size, err := io.Copy(hash, answer.Body)
	fmt.Printf("{\"method\":%q,\"path\":%q,\"status\":%d,\"size\":%d,\"sha256\":\"%x\"}\n", method, path,
		answer.StatusCode, size, hash.Sum(nil))
	return err
}

func main() {
	pem, _ := os.ReadFile(os.Args[2])
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots},
		ForceAttemptHTTP2: os.Args[1] == "h2",
	}
	if os.Args[1] == "h1" {
		transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	client := &http.Client{Transport: transport}
	for _, request := range os.Args[5:] {
		if err := transfer(client, "https://"+os.Args[3]+":"+os.Args[4], request); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	client.CloseIdleConnections()
}
