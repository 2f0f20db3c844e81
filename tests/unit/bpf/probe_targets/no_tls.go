// A program of Go's without TLS.
package main

func main() { println("hello") }
