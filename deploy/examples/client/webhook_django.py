"""Receive webhooks with Django. Start: django-admin runserver 9001 --settings webhook_django --pythonpath ."""

import os

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from queue_engine.client import InvalidWebhook, verify_webhook

SECRET_KEY = os.environ["DJANGO_SECRET_KEY"]
ROOT_URLCONF = __name__
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]


@csrf_exempt
def receive(request: HttpRequest) -> HttpResponse:
    try:
        event = verify_webhook(dict(request.headers), request.body, os.environ["WEBHOOK_SECRET"])
    except InvalidWebhook as error:
        return HttpResponse(str(error), status=401)
    return JsonResponse({"received": event.user_task_id or event.id})


urlpatterns = [path("", receive)]
