-- What is said of an item, by sentences: of its description, and of what users wrote before $as_of. For tonight's items, for
-- the candidates of its pairs, and for the latest likes of its users, whose content tells what the users are after. Never
-- published.
--
-- At most the latest 100 reviews of an item are read. What a review says is praise where its rating, or without one the
-- user's opinion, is a like, else fault. A title says itself: its words are no words of the texts.
with liked as (
    select item_id
    from (
        select
            user_id,
            seen['item_id'] as item_id,
            row_number() over (
                partition by user_id order by seen['event_timestamp'] desc, seen['item_id'] desc) as place
        from (select user_id, unnest(recent) as seen from user_history)
        where seen['liked']
    )
    where place <= 8
),
wanted as (
    select item_id from item_taste where is_active or is_candidate
    union
    select item_id from liked
),
titled as (
    select w.item_id, i.description, content_words(i.title) as title_words
    from wanted as w
    join item as i on i.item_id = w.item_id
),
written as (
    select r.item_id, r.user_id, r.rating, r.summary, r.text, r.text_no
    from (
        select
            r.item_id,
            r.user_id,
            r.rating,
            r.summary,
            r.text,
            row_number() over (
                partition by r.item_id order by r.event_timestamp desc, r.user_id, r.summary, r.text, r.rating) as text_no
        from wanted as w
        join review as r on r.item_id = w.item_id
        where r.event_timestamp < $as_of
    ) as r
    where text_no <= 100
),
whole as (
    select
        item_id,
        cast(0 as bigint) as text_no,
        cast(null as varchar) as user_id,
        cast(null as boolean) as liked,
        sentences(description, 40) as told
    from titled
    where description is not null
    union all
    select
        w.item_id,
        cast(w.text_no as bigint) as text_no,
        w.user_id,
        coalesce(w.rating >= $like_threshold, o.liked, true) as liked,
        sentences(concat_ws(chr(10), w.summary, w.text), 25) as told
    from written as w
    left join opinion as o on o.user_id = w.user_id and o.item_id = w.item_id
),
cut as (
    select item_id, text_no, user_id, liked, unnest(told) as sentence, unnest(range(1, cast(cardinality(told) + 1 as bigint))) as place
    from whole
    where cardinality(told) > 0
),
worded as (
    select c.item_id, c.text_no, c.user_id, c.liked, c.place, c.sentence, content_words(c.sentence) as words, t.title_words
    from titled as t
    right join cut as c on t.item_id = c.item_id
)
select
    cast(item_id as varchar) as item_id,
    text_no,
    cast(user_id as varchar) as user_id,
    liked,
    cast(place as bigint) as place,
    cast(sentence as varchar) as sentence,
    array_except(words, coalesce(title_words, cast(make_array() as varchar[]))) as words
from worded
order by item_id, text_no, place
