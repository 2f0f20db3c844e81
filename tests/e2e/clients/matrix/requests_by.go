// Usage: requests_by h1|h2 BASE CA COUNT; CA "-": what Go trusts by itself.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
)

func client(way string, roots *x509.CertPool, kept bool) *http.Client {
	transport := &http.Transport{
		Proxy:             http.ProxyFromEnvironment,
		TLSClientConfig:   &tls.Config{RootCAs: roots},
		ForceAttemptHTTP2: way == "h2",
		DisableKeepAlives: !kept,
	}
	if way == "h1" {
		transport.TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	}
	return &http.Client{Transport: transport}
}

func request(client *http.Client, url string, i int) error {
	method, body := "GET", io.Reader(nil)
	if i%2 == 1 {
		method, body = "POST", strings.NewReader(strings.Repeat("b", i))
	}
	made, err := http.NewRequest(method, url, body)
	if err != nil {
		return err
	}
	answer, err := client.Do(made)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return err
}

func main() {
	way, base := os.Args[1], os.Args[2]
	count, _ := strconv.Atoi(os.Args[4])
	var roots *x509.CertPool
	if os.Args[3] != "-" {
		pem, _ := os.ReadFile(os.Args[3])
		roots = x509.NewCertPool()
		roots.AppendCertsFromPEM(pem)
	}
	kept := client(way, roots, true)
	for i := 0; i < count; i++ {
		used := kept
		if i >= count/2 {
			used = client(way, roots, false)
		}
		if err := request(used, fmt.Sprintf("%s/%d", base, i), i); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if used != kept {
			used.CloseIdleConnections()
		}
	}
	kept.CloseIdleConnections()
}
