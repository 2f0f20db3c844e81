// A client of Go's TLS.
package main

import (
	"crypto/tls"
	"fmt"
	"os"
)

func main() {
	connection, err := tls.Dial("tcp", os.Args[1], &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	defer connection.Close()
	connection.Write([]byte("hello"))
	count, _ := connection.Read(make([]byte, 4096))
	fmt.Println(count)
}
