// GETs BASE/0 to BASE/COUNT-1 with Apache's HttpClient, one after the other, over kept connections. It takes its proxy
// and its trust store from the system properties, as Java's own clients do.
import org.apache.http.client.methods.CloseableHttpResponse;
import org.apache.http.client.methods.HttpGet;
import org.apache.http.impl.client.CloseableHttpClient;
import org.apache.http.impl.client.HttpClients;
import org.apache.http.util.EntityUtils;

public class RequestsByApache {
  public static void main(String[] args) throws Exception {
    int count = Integer.parseInt(args[1]);
    try (CloseableHttpClient client = HttpClients.createSystem()) {
      for (int i = 0; i < count; ++i) {
        try (CloseableHttpResponse response = client.execute(new HttpGet(args[0] + "/" + i))) {
          EntityUtils.consume(response.getEntity());
          if (response.getStatusLine().getStatusCode() != 200) throw new RuntimeException(response.toString());
        }
      }
    }
  }
}
