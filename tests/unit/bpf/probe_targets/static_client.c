// A client with a copy of OpenSSL of its own.
#include <openssl/crypto.h>
#include <openssl/ssl.h>
#include <stdio.h>

int main(void) {
  puts(OpenSSL_version(OPENSSL_VERSION));
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  SSL* ssl = SSL_new(context);
  char byte = 0;
  size_t count = 0;
  SSL_set_connect_state(ssl);
  SSL_write(ssl, &byte, 1);
  SSL_write_ex(ssl, &byte, 1, &count);
  SSL_read(ssl, &byte, 1);
  SSL_read_ex(ssl, &byte, 1, &count);
  SSL_shutdown(ssl);
  SSL_free(ssl);
  SSL_CTX_free(context);
  return 0;
}
