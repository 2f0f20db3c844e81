// Usage: RequestsByJava BASE COUNT [h2], with the trust store in the system properties: GETs over one connection.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

public class RequestsByJava {
  public static void main(String[] arguments) throws Exception {
    HttpClient.Version version = arguments.length > 2 ? HttpClient.Version.HTTP_2 : HttpClient.Version.HTTP_1_1;
    HttpClient client = HttpClient.newBuilder().version(version).build();
    for (int i = 0; i < Integer.parseInt(arguments[1]); i++) {
      HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0] + "/" + i)).build();
      client.send(request, HttpResponse.BodyHandlers.discarding());
    }
  }
}
