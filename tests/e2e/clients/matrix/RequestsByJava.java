// Usage: RequestsByJava BASE COUNT, with the trust store in the system properties: GETs over one connection.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

public class RequestsByJava {
  public static void main(String[] arguments) throws Exception {
    HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    for (int i = 0; i < Integer.parseInt(arguments[1]); i++) {
      HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0] + "/" + i)).build();
      client.send(request, HttpResponse.BodyHandlers.discarding());
    }
  }
}
