// Asks once over a connection whose writes of application data never come back, although all was sent, and ends with the
// answer. Usage: held_write HOST:PORT PATH CA
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
)

const applicationData = 23

type heldWrites struct{ net.Conn }

func (held heldWrites) Write(bytes []byte) (int, error) {
	written, err := held.Conn.Write(bytes)
	if bytes[0] == applicationData {
		select {}
	}
	return written, err
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func main() {
	address, path := os.Args[1], os.Args[2]
	pem, _ := os.ReadFile(os.Args[3])
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	socket, err := net.Dial("tcp", address)
	if err != nil {
		fail(err)
	}
	// 1.2: there the client's part of the handshake has no such records.
	config := &tls.Config{RootCAs: roots, ServerName: "localhost", MaxVersion: tls.VersionTLS12}
	connection := tls.Client(heldWrites{socket}, config)
	go fmt.Fprintf(connection, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, address)
	answer, err := http.ReadResponse(bufio.NewReader(connection), nil)
	if err != nil {
		fail(err)
	}
	if answer.StatusCode != 200 {
		fail(fmt.Errorf("status %d", answer.StatusCode))
	}
}
